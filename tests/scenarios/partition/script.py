"""Plays a script of commands on one partition, as its leader would, and writes down what came of each.

A line is a command; what it came to follows behind `>`, with a letter for each message: fresh `-`, given back `1`-`9`
(so often delivered), leased `L`, delayed `D`, acked `.`, dead `X`, on its way to another partition `M`, moved `m`.
Leases are named `a`, `b`, ... in their order. Where there are other consumer groups than `default`, theirs follow by
name. `keys aab-` produces four messages, of which the first two have one key and the last has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.entry import Entry, EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, Index, LeaseId, Offset, ReplicaId, Term
from logbroker.partition import decide, moving
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import Bury, BuryExpired, BuryOld, Dedupe, DeliverAt, MoveIn, encode_changes
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.ordering import NO_ORDER, KeyLocks, order_policy
from logbroker.partition.outcomes import Cancelled, Leased, Produced, Purged, RewindFloorMoved, Rewound
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.record.batch import read_header
from logbroker.record.dedup_ids import NO_ID, id_hash
from tests.unit.partition.build import GROUP, ListedKeys, batch, move_floor, produce, states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.partition.commands import Change, Ranges
    from logbroker.partition.decide import Decision

D = DEFAULT_GROUP


class Script:
    def __init__(self) -> None:
        self.machine = PartitionMachine.new(GroupId(GROUP))
        self.policy = NO_POLICY
        self.order = NO_ORDER
        self.keys = ListedKeys()
        self.locks = KeyLocks(self.keys)
        self.now_ms = 0
        self.window = {"window_ms": 300_000, "max_count": 1_000_000}
        self.leases: list[LeaseId] = []
        self.moves = 0
        self.notes: list[str] = []

    def play(self, line: str) -> str:
        """Carry one command out; return what it came to."""
        verb, *words = line.split()
        self.notes = []
        match verb:
            case "policy":
                self.set_policy(*words)
            case "order":
                self.set_order(*words)
            case "produce":
                self.produce(*map(int, words))
            case "keys":
                self.keys.add(words[0])
                produce(self.machine, len(words[0]), append_ms=self.now_ms)
            case "ids":
                self.produce_with_ids(*words)
            case "window":
                self.window = {name: int(value) for name, _, value in (word.partition("=") for word in words)}
            case "cancel":
                self.decided(decide.decide_cancel(self.machine, ranges=ranges_of(words[0]), now_ms=self.now_ms))
            case "group":
                start = int(words[1])
                self.decided(decide.decide_create_group(self.machine, GroupName(words[0]), start_offset=start))
            case "wait":
                self.now_ms += int(words[0])
            case "receive":
                self.receive(*words)
            case "ack" | "nack" | "reject":
                self.settle(verb, *words)
            case "extend":
                self.extend(words[0], words[1], int(words[2]))
            case "release":
                self.decided(decide.decide_release(self.machine, D, lease=self.lease_of(words[0])))
            case "expire":
                self.changed(decide.decide_expire(self.machine, now_ms=self.now_ms, policy=self.policy))
            case "old":
                # All below the offset has outlived its time to live.
                self.changed(decide.decide_bury_old(self.machine, below=Offset(int(words[0]))))
            case "revive":
                self.decided(decide.decide_revive(self.machine, D, ranges=ranges_of(words[0])))
            case "move":
                self.move_out(*words)
            case "arrived" | "stays":
                self.end_move(int(words[0]), is_refused=verb == "stays")
            case "take":
                self.take(*map(int, words))
            case "refuse":
                self.decided(
                    moving.decide_move_in(self.machine, None, source=GroupId(int(words[0])), number=int(words[1]))
                )
            case "drop":
                self.decided(decide.decide_delete_group(self.machine, GroupName(words[0])))
            case "rewind":
                # With a second number: messages below it are settled for too long to be rewound.
                self.move(decide.decide_rewind, int(words[0]), floor=Offset(int(words[1]) if words[1:] else 0))
            case "skip":
                self.move(decide.decide_skip_to, int(words[0]))
            case "pause":
                self.pause(*words)
            case "resume":
                self.decided(decide.decide_resume(self.machine, D))
            case "purge":
                purge_id = FIRST_PURGE_ID + int(words[0])
                self.decided(decide.decide_purge(self.machine, D, purge_id=purge_id, requested=""))
            case "floor":
                move_floor(self.machine, int(words[0]))
            case "checkpoint":
                self.checkpoint()
            case _:
                raise ValueError(line)
        others = [f"{name} {states(self.machine, name)}" for name in self.machine.groups if name != D]
        return "  ".join([states(self.machine), *others, *self.notes])

    def set_policy(self, *words: str) -> None:
        given = {name: int(value) for name, _, value in (word.partition("=") for word in words)}
        self.policy = FailurePolicy(**given, jitter=0.0)

    def set_order(self, *words: str) -> None:
        window = next((int(word.partition("=")[2]) for word in words if word.startswith("window=")), 0)
        self.order = order_policy(window, by_key="key" in words, blocks="skip" not in words)

    def produce(self, count: int, delay_ms: int = 0) -> None:
        """Append a batch, behind the entry that says when it is due if it is delayed."""
        due_ms = decide.due_time(delay_ms=delay_ms, deliver_at_ms=0, now_ms=self.now_ms, retention_s=86_400)
        if due_ms:
            self.changed([DeliverAt(due_ms)])
        produce(self.machine, count, append_ms=self.now_ms)

    def move_out(self, at: str, target: str, group: str = D) -> None:
        decision = moving.decide_move_out(
            self.machine, GroupName(group), ranges=ranges_of(at), target=GroupId(int(target))
        )
        self.decided(decision)
        self.note_owed()

    def end_move(self, target: int, *, is_refused: bool) -> None:
        row = self.machine.outbox.head(target)
        change = None
        if row is not None:
            change = moving.decide_moved(self.machine, target=target, number=row.number, is_refused=is_refused)
        if change is None:
            self.notes.append("nothing is owed")
        else:
            self.changed([change])
        self.note_owed()

    def note_owed(self) -> None:
        for row in self.machine.outbox.rows():
            ranges = ",".join(f"{start}-{end}" for start, end in row.ranges)
            self.notes.append(f"owes {ranges} of {row.group} to {row.target}")

    def take(self, source: int, number: int, count: int) -> None:
        """Take what another partition owes, as the leader of the target does: both entries or none."""
        header = read_header(batch(count))
        decision = moving.decide_move_in(self.machine, header, source=GroupId(source), number=number)
        if isinstance(decision, decide.ProposeBatch):
            self.changed([MoveIn(source, number, is_refused=False)])
            produce(self.machine, count, append_ms=self.now_ms)
        else:
            self.decided(decision)
        fate = "never taken" if self.machine.inbox.is_refused(source, number) else "taken"
        self.notes.append(f"number {number} of {source} is {fate}")

    def produce_with_ids(self, *words: str) -> None:
        """Append a batch of messages `id:body`, of `producer=id,sequence` if the first word says so; `-` has no id."""
        producer = (-1, -1, -1)
        if words[0].startswith("producer="):
            number, sequence = words[0].removeprefix("producer=").split(",")
            producer, words = (int(number), 0, int(sequence)), words[1:]
        ids = ids_of(words, **self.window)
        payload = batch(len(words), producer=producer, base_offset=self.machine.next_offset)
        decision = decide.decide_produce(self.machine, read_header(payload), ids=ids, now_ms=self.now_ms)
        match decision:
            case decide.Answer(Produced() as outcome):
                self.notes.append(f"not appended: {_verdicts(outcome)}")
            case decide.ProposeBatch():
                self.changed([ids])
                (made,) = produce(self.machine, len(words), producer=producer, append_ms=self.now_ms).outcomes
                self.notes += [_verdicts(made)] if isinstance(made, Produced) else [str(made)]
            case _:
                self.decided(decision)

    def receive(self, count: str, hide_ms: str = "30000", not_below: str = "0") -> None:
        decision = decide.decide_receive(
            self.machine,
            D,
            max_count=int(count),
            hide_ms=int(hide_ms),
            now_ms=self.now_ms,
            consumer="till",
            not_below=int(not_below),
            policy=self.policy,
            order=self.order,
            locks=self.locks,
        )
        self.decided(decision)

    def settle(self, verb: str, name: str, at: str, *rest: str) -> None:
        machine, lease, ranges = self.machine, self.lease_of(name), ranges_of(at)
        if verb == "ack":
            self.decided(decide.decide_ack(machine, D, lease=lease, ranges=ranges))
        elif verb == "reject":
            self.decided(decide.decide_reject(machine, D, lease=lease, ranges=ranges, reason=" ".join(rest)))
        else:
            delay_ms = int(rest[0]) if rest else None
            self.decided(
                decide.decide_nack(
                    machine,
                    D,
                    lease=lease,
                    ranges=ranges,
                    delay_ms=delay_ms,
                    now_ms=self.now_ms,
                    policy=self.policy,
                )
            )

    def extend(self, name: str, at: str, hide_ms: int) -> None:
        machine, lease = self.machine, self.lease_of(name)
        self.decided(
            decide.decide_extend(machine, D, lease=lease, ranges=ranges_of(at), hide_ms=hide_ms, now_ms=self.now_ms)
        )

    def move(self, choose: Callable[..., Decision], to: int, **floor: Offset) -> None:
        self.moves += 1
        self.decided(choose(self.machine, D, rewind_id=self.moves, start_offset=to, requested="", **floor))

    def pause(self, duration_ms: str = "0") -> None:
        self.decided(decide.decide_pause(self.machine, D, reason="", duration_ms=int(duration_ms), now_ms=self.now_ms))

    def checkpoint(self) -> None:
        data = b"".join(encode_slices(self.machine, CheckpointMeta(ReplicaId(1), b"")))
        digest = self.machine.digest()
        self.machine, _ = decode(data)
        self.notes.append("the same" if self.machine.digest() == digest else "another state")

    def lease_of(self, name: str) -> LeaseId:
        return self.leases[ord(name) - ord("a")]

    def decided(self, decision: Decision) -> None:
        match decision:
            case decide.Propose(changes):
                self.changed(changes)
            case decide.Answer(Purged() as outcome):
                self.notes.append(f"purged before: {outcome.purged_count}")
            case decide.Refused(error):
                self.notes.append(f"refused: {error.code}")
            case decide.NothingAvailable(next_visible_ms):
                is_paused = self.machine.group(D).pause_at(self.now_ms) is not None
                self.notes.append(f"nothing: paused until {next_visible_ms}" if is_paused else "nothing")
            case decide.Answer(Cancelled() as outcome):
                self.notes.append(_cancelled(outcome))
            case _:
                self.notes.append("nothing to do")

    def changed(self, changes: Sequence[Change]) -> None:
        machine = self.machine
        if not changes:
            return
        index = Index(machine.applied_index + 1)
        end = Offset(machine.next_offset)
        payload = encode_changes(changes)
        applied = machine.apply(Entry(EntryKind.STATE, GROUP, index, Term(2), end, end, self.now_ms, payload))
        for change, outcome in zip(changes, applied.outcomes, strict=True):
            if isinstance(outcome, Leased):
                self.leases.append(outcome.lease)
                told = ", ".join(f"{held.start}-{held.end} try {held.deliveries}" for held in outcome.ranges)
                self.notes.append(f"lease {chr(ord('a') + len(self.leases) - 1)}: {told}")
            elif isinstance(outcome, Cancelled):
                self.notes.append(_cancelled(outcome))
            elif isinstance(change, Bury):
                self.notes.append(f"buried: {change.cause.name.lower()}")
            elif isinstance(change, BuryExpired):
                self.notes.append(f"buried: max_deliveries, held by {change.consumer}")
            elif isinstance(change, BuryOld):
                self.notes.append(f"buried: ttl, {getattr(outcome, 'count', 0)} of them")
            elif isinstance(outcome, Rewound) and outcome.clamped:
                self.notes.append(f"clamped to {outcome.start_offset}")
            elif isinstance(outcome, RewindFloorMoved):
                self.notes.append(f"rewind floor {outcome.start_offset}")
            elif isinstance(outcome, Purged):
                counts = f"{outcome.revoked_count} leased, {outcome.dead_count} dead"
                self.notes.append(f"purged: {outcome.purged_count}, of which {counts}")


def _verdicts(outcome: Produced) -> str:
    told = [f"{position} is {offset}" for position, offset in outcome.duplicates]
    return ", ".join([*told, *[f"{position} conflicts" for position in outcome.conflicts]])


def ids_of(words: Sequence[str], **window: int) -> Dedupe:
    pairs = [word.partition(":")[::2] for word in words]
    hashes = b"".join([NO_ID if name == "-" else id_hash(name.encode()) for name, _ in pairs])
    return Dedupe(**window, hashes=hashes, bodies=b"".join([body.encode().ljust(8) for _, body in pairs]))


def _cancelled(outcome: Cancelled) -> str:
    return f"cancelled {outcome.count}, too late for {outcome.late_count}"


def ranges_of(text: str) -> Ranges:
    """Read `0-2,4-5`, half-open."""
    pairs = [part.split("-") for part in text.split(",")]
    return tuple((int(start), int(end)) for start, end in pairs)


def played(text: str) -> str:
    """The script with what each command comes to; what was expected is left out, all else is kept."""
    lines: list[str] = []
    script = Script()
    for line in text.splitlines():
        if line.startswith(">"):
            continue
        if line.startswith("== "):
            script = Script()
        lines.append(line)
        if line and not line.startswith(("#", "== ")):
            lines.append(f"> {script.play(line)}".rstrip())
    return "\n".join(lines) + "\n"
