"""Judges what clients were told against what the logs say, once all is healed and stopped.

The log itself goes through the simulator's reference (`logbroker.testing.model`): offsets dense, a message once, a
producer's sequence without a gap, no lease of what is leased or acked, no early expiry in log time. Here stands what
ties the clients' words, and real time, to it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.ids import GroupName, Index, LeaseId, lease_id
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    Cancel,
    Dedupe,
    DeliverAt,
    Expire,
    Extend,
    ForgetSource,
    Lease,
    Moved,
    MoveIn,
    MoveOut,
    Nack,
    Pause,
    Resume,
    RewindFloor,
    decode_changes,
)
from logbroker.record.batch import decode_batch
from logbroker.testing.model import MessageState, PartitionModel
from logbroker.testing.violation import Violation
from tools.chaos_kit.record import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from logbroker.entry import Entry
    from logbroker.partition.commands import Change
    from logbroker.testing.model import ModelGroup, Move
    from tools.chaos_kit.nodes import Partition
    from tools.chaos_kit.record import Delivered, Record, Rewinding, Sent, Settled

# Log time runs at most so much faster than any clock of a node, and may step by so much when another node leads.
_DRIFT = 0.001
LEASE_RULES = frozenset({"a message is leased once at a time", "a lease is never shortened"})


@final
@dataclass(slots=True)
class Verdict:
    """What was found; clean if nothing was."""

    confirmed: int = 0
    lost: int = 0
    doubled: int = 0
    overlapping: int = 0
    stuck: int = 0
    leases: int = 0
    acks: int = 0
    rewinds: int = 0
    unknown: int = 0
    # What the clients of the features did, and what became of it, by what it is.
    features: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.findings

    def find(self, text: str) -> None:
        self.findings.append(text)

    def count(self, what: str, times: int = 1) -> None:
        self.features[what] = self.features.get(what, 0) + times


def judge(record: Record, logs: Mapping[Partition, Sequence[Entry]], verdict: Verdict, *, skew_s: float) -> None:
    """Judge a round, and add to the verdict. `skew_s` is how far log time may step at a change of leaders."""
    verdict.unknown = sum(sent.outcome in (Outcome.UNKNOWN, Outcome.PENDING) for sent in record.sent)
    models: dict[Partition, PartitionModel] = {}
    for place, entries in logs.items():
        models[place] = fold(place, entries, PartitionModel(), verdict)
        values = _values(entries)
        sent = [sent for sent in record.sent if sent.place == place]
        verdict.confirmed += judge_sent(place, sent, dict(enumerate(values)), verdict)
        _judge_read(record, place, values, verdict)
        judge_lease_times(record, place, entries, values, verdict, skew_s=skew_s)
    verdict.leases += len(record.delivered)
    verdict.acks += judge_work(record, models, verdict)
    _judge_rewinds(record, models, verdict)


def fold(place: Partition, entries: Sequence[Entry], model: PartitionModel, verdict: Verdict) -> PartitionModel:
    """Run a log through a fresh model, as far as it breaks no rule, and give the model back."""
    try:
        for entry in entries:
            model.apply(entry)
    except Violation as violation:
        verdict.overlapping += violation.rule in LEASE_RULES
        verdict.find(f"{name_of(place)}: {violation}")
    return model


def name_of(place: Partition) -> str:
    return f"{place[0]}/{place[1]}"


def _values(entries: Sequence[Entry]) -> list[bytes]:
    """The value at each offset."""
    found: list[bytes] = []
    for entry in entries:
        if entry.kind is EntryKind.DATA:
            found += (record.value or b"" for record in decode_batch(entry.payload))
    return found


# Producing.


def judge_sent(place: Partition, sent: Sequence[Sent], values: Mapping[int, bytes], verdict: Verdict) -> int:
    """Hold what senders were told against the values by offset; gives how many messages were confirmed."""
    confirmed = 0
    offsets: dict[bytes, list[int]] = {}
    for offset, value in values.items():
        offsets.setdefault(value, []).append(offset)
    for value, found in offsets.items():
        if len(found) > 1:
            verdict.doubled += 1
            verdict.find(f"{name_of(place)}: doubled: {value.strip()!r} stands at offsets {found}")
    known = {message.value for message in sent}
    for value in offsets.keys() - known:
        verdict.find(f"{name_of(place)}: {value.strip()!r} was sent by nobody")
    last: dict[str, Sent] = {}
    for message in sorted(sent, key=lambda one: (one.sender, one.number)):
        found = offsets.get(message.value, [])
        match message.outcome:
            case Outcome.DONE:
                confirmed += 1
                if message.offset not in found:
                    verdict.lost += 1
                    verdict.find(
                        f"{name_of(place)}: lost: {message.value.strip()!r} was confirmed at offset {message.offset}, "
                        f"stands at {found}, and the log ends at {max(values, default=-1) + 1}"
                    )
            case Outcome.REFUSED if found:
                verdict.find(
                    f"{name_of(place)}: {message.value.strip()!r} stands at {found}, though its sender was told that "
                    f"it was not committed: {message.error}"
                )
            case _:
                pass
        if found:
            before = last.get(message.sender)
            if before is not None and offsets[before.value][-1] > found[0]:
                verdict.find(
                    f"{name_of(place)}: out of order: {before.value.strip()!r} stands at {offsets[before.value]}, "
                    f"{message.value.strip()!r} at {found}"
                )
            last[message.sender] = message
    return confirmed


def _judge_read(record: Record, place: Partition, values: Sequence[bytes], verdict: Verdict) -> None:
    """What the last reading brought is what the log holds; it may end where the log ended then."""
    for offset, value in enumerate(values):
        read = record.read.get((place, offset))
        if read is not None and read != value:
            verdict.find(f"{name_of(place)}: offset {offset} is {value.strip()!r}, and was read as {read.strip()!r}")
    for sent in record.sent:
        if sent.place == place and sent.outcome is Outcome.DONE and (place, sent.offset) not in record.read:
            verdict.lost += 1
            verdict.find(f"{name_of(place)}: {sent.value.strip()!r}, confirmed at offset {sent.offset}, was never read")


# Consuming.


def judge_work(record: Record, models: Mapping[Partition, PartitionModel], verdict: Verdict) -> int:
    """Hold deliveries, and acks that were confirmed, against the logs; gives how many acks these were."""
    for delivered in record.delivered:
        _judge_delivered(delivered, models[delivered.place], verdict)
    acks = [settled for settled in record.settled if settled.verb == "ack" and settled.outcome is Outcome.DONE]
    for settled in acks:
        _judge_ack(settled, models[settled.place], verdict)
    return len(acks)


def _judge_delivered(delivered: Delivered, model: PartitionModel, verdict: Verdict) -> None:
    group = model.find_group(GroupName(delivered.group), Index(delivered.lease >> 16))
    granted = None if group is None else group.leases.get(LeaseId(delivered.lease))
    where = f"{name_of(delivered.place)}, group {delivered.group}, lease {delivered.lease}"
    if granted is None:
        verdict.find(f"{where}: was delivered, and is not in the log")
        return
    counts = {offset: count for start, end, count in granted.ranges for offset in range(start, end)}
    for offset, deliveries, value in delivered.messages:
        if counts.get(offset) != deliveries:
            verdict.find(f"{where}: offset {offset} came as delivery {deliveries}, the log says {counts.get(offset)}")
        elif model.values[offset] != value:
            verdict.find(f"{where}: offset {offset} is {model.values[offset].strip()!r}, and came as {value.strip()!r}")


def _judge_ack(settled: Settled, model: PartitionModel, verdict: Verdict) -> None:
    group = model.find_group(GroupName(settled.group), Index(settled.lease >> 16))
    for offset in settled.offsets:
        if group is None or not _was_acked(group, offset):
            where = f"{name_of(settled.place)}, group {settled.group}, lease {settled.lease}"
            verdict.find(f"{where}: the ack of offset {offset} was confirmed, and is not in the log")


def _was_acked(group: ModelGroup, offset: int) -> bool:
    return any(moment.state is MessageState.ACKED for moment in group.moments.get(offset, ()))


def judge_lease_times(
    record: Record,
    place: Partition,
    entries: Sequence[Entry],
    values: Sequence[bytes],
    verdict: Verdict,
    *,
    skew_s: float,
) -> None:
    """Hold the times at which leases came against those of the leases before them."""
    _LeaseTimes(record, place, values, skew_s).judge(entries, verdict)


@final
@dataclass(slots=True)
class _Held:
    """What is known of the present lease of one message in one group; lease 0 is none."""

    earliest_s: float
    lease: int = 0
    append_ms: int = 0
    visible_at_ms: int = 0


@final
class _LeaseTimes:
    """Holds real time against log time: nobody may get a message before the lease before it can have ended.

    For each lease of a message, the earliest moment at which it can have been granted: not before the message was
    sent, nor before a lease that expired before it can have run for its time. Sound whatever the clocks of nodes do,
    but for the step that log time may make when another node leads.
    """

    def __init__(self, record: Record, place: Partition, values: Sequence[bytes], skew_s: float) -> None:
        self._place = place
        self._skew_s = skew_s
        started = {sent.value: sent.started_s for sent in record.sent if sent.place == place}
        self._sent_s = [started.get(value, 0.0) for value in values]
        self._received: dict[tuple[str, int], float] = {
            (delivered.group, delivered.lease): delivered.received_s
            for delivered in record.delivered
            if delivered.place == place
        }
        self._held: dict[tuple[str, int], _Held] = {}

    def judge(self, entries: Sequence[Entry], verdict: Verdict) -> None:
        for entry in entries:
            if entry.kind is EntryKind.STATE:
                for ordinal, change in enumerate(decode_changes(entry.payload)):
                    self._change(entry, ordinal, change, verdict)

    def _change(self, entry: Entry, ordinal: int, change: Change, verdict: Verdict) -> None:
        match change:
            case Lease():
                self._grant(entry, lease_id(entry.index, ordinal), change, verdict)
            case Extend():
                for held in self._find(change.group, change.ranges):
                    if held.lease == change.lease:
                        held.visible_at_ms = change.visible_at_ms
            case Expire() | BuryExpired():
                for held in self._find(change.group, change.ranges):
                    if held.lease:
                        ran_s = (held.visible_at_ms - held.append_ms) / 1000 * (1 - _DRIFT) - self._skew_s
                        held.earliest_s += max(0.0, ran_s)
                        held.lease = 0
            case Ack() | Nack() | Bury():
                # Before its time, as somebody wished. One that came too late and did nothing is taken for good,
                # which can only make the check weaker.
                for held in self._find(change.group, change.ranges):
                    held.lease = 0
            case DeliverAt() | Cancel() | Dedupe() | RewindFloor() | MoveOut() | Moved() | MoveIn() | ForgetSource():
                # Of messages that nobody holds.
                pass
            case Pause() | Resume():
                # Whoever holds something goes on to hold it.
                pass
            case _:
                for (group, _), held in self._held.items():
                    if group == change.group:
                        held.lease = 0

    def _find(self, group: str, ranges: Sequence[tuple[int, int]]) -> Iterator[_Held]:
        for start, end in ranges:
            for offset in range(start, end):
                held = self._held.get((group, offset))
                if held is not None:
                    yield held

    def _grant(self, entry: Entry, lease: int, change: Lease, verdict: Verdict) -> None:
        received_s = self._received.get((change.group, lease))
        for start, end in change.ranges:
            for offset in range(start, end):
                held = self._held.setdefault((change.group, offset), _Held(self._sent_s[offset]))
                held.lease, held.append_ms, held.visible_at_ms = lease, entry.append_ms, change.visible_at_ms
                if received_s is not None and received_s < held.earliest_s:
                    verdict.overlapping += 1
                    verdict.find(
                        f"{name_of(self._place)}, group {change.group}: lease {lease} of offset {offset} was delivered "
                        f"{held.earliest_s - received_s:.3f} s before the lease before it can have ended"
                    )


# Rewinding.

# The moves that one rewind made, by partition.
_Moves = dict[int, "Move"]


def _judge_rewinds(record: Record, models: Mapping[Partition, PartitionModel], verdict: Verdict) -> None:
    """Each rewind that was answered was carried out as it was told; each was carried out once, and everywhere."""
    counts = Counter(queue for queue, _ in models)
    asked = Counter((rewinding.queue, rewinding.group) for rewinding in record.rewound)
    carried_out = _carried_out(models)
    for (queue, group), by_id in carried_out.items():
        if len(by_id) > asked[queue, group]:
            verdict.find(f"{queue}, group {group}: {len(by_id)} rewinds, and {asked[queue, group]} were asked for")
        for rewind_id, moves in by_id.items():
            if len(moves) != counts[queue]:
                verdict.find(
                    f"{queue}, group {group}: rewind {rewind_id} reached partitions {sorted(moves)} of {counts[queue]}"
                )
    for rewinding in record.rewound:
        if rewinding.outcome is Outcome.REFUSED:
            verdict.find(f"a rewind of {rewinding.queue}, group {rewinding.group}, was refused: {rewinding.error}")
        if rewinding.outcome is not Outcome.DONE:
            continue
        verdict.rewinds += 1
        by_id = carried_out.get((rewinding.queue, rewinding.group), {})
        if not any(_fits(rewinding, moves, models) for moves in by_id.values()):
            verdict.find(f"no rewind in the log is the one that was answered: {rewinding}; there are {by_id}")


def _carried_out(models: Mapping[Partition, PartitionModel]) -> dict[tuple[str, str], dict[int, _Moves]]:
    """The rewinds that the logs hold, by queue and group, then id."""
    found: dict[tuple[str, str], dict[int, _Moves]] = {}
    for (queue, partition), model in models.items():
        for name, group in model.groups.items():
            for rewind_id, move in group.moves.items():
                found.setdefault((queue, str(name)), {}).setdefault(rewind_id, {})[partition] = move
    return found


def _fits(rewinding: Rewinding, moves: _Moves, models: Mapping[Partition, PartitionModel]) -> bool:
    """Whether a rewind in the log is exact, and is what the answer said."""
    for partition, start, moved in rewinding.partitions:
        move = moves.get(partition)
        if move is None:
            return False
        model = models[rewinding.queue, partition]
        first = model.first_offset_at(rewinding.target_ms, before=move.index)
        expected = int(move.next_offset if first is None else max(first, move.log_start))
        if not move.start_offset == start == expected or moved != move.counts[0] + move.counts[1]:
            return False
    return True
