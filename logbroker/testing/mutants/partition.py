"""Bugs in the state of a partition, in what its leader decides, and in log time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import DEFAULT_GROUP, GroupName, Index, LeaseId, Offset
from logbroker.node.node_clock import ReadingClock
from logbroker.node.partition_service import PartitionService
from logbroker.node.replica import Replica
from logbroker.node.requests import ProduceReply
from logbroker.partition import checkpoint, decide, outcomes
from logbroker.partition.commands import Expire, Lease
from logbroker.partition.failures import NO_POLICY
from logbroker.partition.groups import ConsumerGroup, Selection
from logbroker.partition.leases import LeaseRecord, LeaseTable
from logbroker.partition.log_time import LeaderClock, LogClock, Verdict
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.producers import Producers
from logbroker.partition.rewind import RewindHistory
from logbroker.partition.runs import Run, RunState, RunTable
from logbroker.record import compression
from logbroker.testing.faults import FaultKind
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from logbroker.entry import Entry
    from logbroker.node.requests import Answer, ReceiveRequest
    from logbroker.partition.checkpoint import CheckpointMeta
    from logbroker.partition.commands import Change, Ranges, Rewind
    from logbroker.partition.failures import FailurePolicy
    from logbroker.partition.log_time import Reading
    from logbroker.partition.outcomes import Applied, Expired, Leased, Nothing
    from logbroker.partition.producers import Objection
    from logbroker.partition.rewind import RewindRecord
    from logbroker.record.batch import BatchHeader
    from logbroker.record.checksum import Buffer
    from logbroker.testing.mutants.planting import Patch


def _after_decode(patch: Patch, spoil: Callable[[PartitionMachine], None]) -> None:
    decode = checkpoint.decode

    def spoiled(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        spoil(machine)
        return machine, meta

    patch.function(decode, spoiled)


@mutant("producers-forgotten", "B17", "a checkpoint does not bring back the producers")
def _(patch: Patch) -> None:
    _after_decode(patch, lambda machine: machine.producers._states.clear())


@mutant("sequence-ignored", "B17", "a producer's sequence is not looked at")
def _(patch: Patch) -> None:
    patch.attribute(PartitionMachine, "judge_batch", lambda machine, header: None)


@mutant("some-duplicates-taken", "B17", "now and then a duplicate is not noticed")
def _(patch: Patch) -> None:
    judge = PartitionMachine.judge_batch

    def forgetful(machine: PartitionMachine, header: BatchHeader) -> Objection | None:
        return judge(machine, header) if machine.applied_index % 7 else None

    patch.attribute(PartitionMachine, "judge_batch", forgetful)


@mutant("duplicate-confirmed-early", "B18", "a duplicate of what is in flight is confirmed at once")
def _(patch: Patch) -> None:
    def hasty(service: PartitionService, outcome: outcomes.Produced, after_index: Index, answer: Answer) -> None:
        del after_index
        first_ms = service._append_ms_of(outcome.base_offset)
        answer(ProduceReply(outcome.base_offset, outcome.count, first_ms, duplicate=True, due_ms=outcome.due_ms))

    patch.attribute(PartitionService, "_answer_duplicate", hasty)


@mutant("uncommitted-delivered", "B20", "a receive is answered before its lease is committed")
def _(patch: Patch) -> None:
    propose = PartitionService._propose_changes

    def hasty(
        service: PartitionService,
        changes: Sequence[Change],
        on_committed: Callable[[Applied], None],
        on_lost: Answer,
    ) -> None:
        if not isinstance(changes[-1], Lease):
            propose(service, changes, on_committed, on_lost)
            return
        foreseen: list[Applied] = []
        replica = service._replica
        _, applied = replica.propose(
            outcomes_kind(),
            encode(changes),
            append_ms=replica.stamp_ms(),
            on_committed=lambda _: None,
            on_lost=lambda _: None,
        )
        if isinstance(applied, outcomes.Applied):
            foreseen.append(applied)
            on_committed(applied)

    from logbroker.entry import EntryKind
    from logbroker.partition.commands import encode_changes as encode

    def outcomes_kind() -> EntryKind:
        return EntryKind.STATE

    patch.attribute(PartitionService, "_propose_changes", hasty)


@mutant("groups-forgotten", "B22", "a checkpoint brings the default group back as it began")
def _(patch: Patch) -> None:
    def begin_again(machine: PartitionMachine) -> None:
        fresh = ConsumerGroup.new(DEFAULT_GROUP, machine.log_start_offset)
        machine._set_groups({**machine._groups, DEFAULT_GROUP: fresh})

    _after_decode(patch, begin_again)


@mutant("ack-by-anyone", "B23", "an ack is good whoever holds the lease")
def _(patch: Patch) -> None:
    select = ConsumerGroup.select

    def lax(group: ConsumerGroup, lease: int, ranges: Ranges, *, log_start: int) -> Selection:
        for start, end in ranges:
            for run in group.table.overlap(max(start, log_start), max(end, log_start)):
                if run.lease:
                    return select(group, run.lease, ranges, log_start=log_start)
        return select(group, lease, ranges, log_start=log_start)

    patch.attribute(ConsumerGroup, "select", lax)


@mutant("stale-ack-confirmed", "B23", "an ack that does nothing is answered like one that did")
def _(patch: Patch) -> None:
    settled = ConsumerGroup.settled

    def kind(group: ConsumerGroup, lease: int, chosen: Selection) -> outcomes.Settled:
        count = chosen.count + sum(end - start for start, end in chosen.stale)
        return settled(group, lease, Selection(chosen.held, count, chosen.already, chosen.expired))

    patch.attribute(ConsumerGroup, "settled", kind)


@mutant("timers-lost", "B24", "a new leader does not know the deadlines of the leases that it found")
def _(patch: Patch) -> None:
    expire = PartitionService._expire
    choose = decide._choose

    def first_term_only(service: PartitionService, now_ms: int) -> None:
        if service._replica.core.term <= 1:
            expire(service, now_ms)

    def without_leased(
        state: ConsumerGroup,
        end: Offset,
        now_ms: int,
        max_count: int,
        not_below: int,
        limits: decide.DecisionLimits,
        ended: decide._Ended,
    ) -> list[tuple[int, int]]:
        found = decide._Ended(state, ended.policy)
        chosen = choose(state, end, now_ms, max_count, not_below, limits, found)
        return [] if found.range_count else chosen

    patch.attribute(PartitionService, "_expire", first_term_only)
    patch.function(choose, without_leased)


@mutant("lease-shortened", "B24", "a lease may be ended before its time")
def _(patch: Patch) -> None:
    expire, decide_expire = ConsumerGroup.expire, decide.decide_expire
    early_ms = 700

    def early(group: ConsumerGroup, ranges: Ranges, *, append_ms: int) -> Expired | Nothing:
        return expire(group, ranges, append_ms=append_ms + early_ms)

    def hasty(machine: PartitionMachine, *, now_ms: int, policy: FailurePolicy = NO_POLICY) -> tuple[Change, ...]:
        return decide_expire(machine, now_ms=now_ms + early_ms, policy=policy)

    patch.attribute(ConsumerGroup, "expire", early)
    patch.function(decide_expire, hasty)
    patch.attribute(PartitionMachine, "next_deadline_ms", lambda machine: 0)


@mutant("leased-twice", "B24", "what is leased already is leased again")
def _(patch: Patch) -> None:
    take = ConsumerGroup.lease
    eligible = RunTable.eligible

    def generous(
        group: ConsumerGroup, change: Lease, *, lease: LeaseId, append_ms: int, next_offset: int
    ) -> Leased | Nothing:
        for start, end in change.ranges:
            for run in group.table.overlap(start, end):
                if run.state is RunState.LEASED:
                    group._take(run.lease, run.end - run.start)
                    group.table.put([Run(run.start, run.end, RunState.AVAILABLE, run.deliveries)])
        return take(group, change, lease=lease, append_ms=append_ms, next_offset=next_offset)

    def with_leased(table: RunTable, now_ms: int, end: int) -> Iterable[Run]:
        found = list(eligible(table, now_ms, end))
        if found:
            return found
        return [run for run in table.runs() if run.state is RunState.LEASED][:1]

    patch.attribute(ConsumerGroup, "lease", generous)
    patch.attribute(RunTable, "eligible", with_leased)


@mutant("delay-ignored", "B24", "a delayed message is leased before its time")
def _(patch: Patch) -> None:
    eligible, take = RunTable.eligible, ConsumerGroup.lease
    early_ms = 400

    def hasty(table: RunTable, now_ms: int, end: int) -> Iterable[Run]:
        return [
            run
            for run in eligible(table, now_ms + early_ms, end)
            if run.state is not RunState.LEASED or run.visible_at_ms <= now_ms
        ]

    def lax(
        group: ConsumerGroup, change: Lease, *, lease: LeaseId, append_ms: int, next_offset: int
    ) -> Leased | Nothing:
        for start, end in change.ranges:
            for run in group.table.overlap(start, end):
                if run.state is RunState.DELAYED and run.visible_at_ms <= append_ms + early_ms:
                    group.table.put([Run(run.start, run.end, RunState.AVAILABLE, run.deliveries)])
        return take(group, change, lease=lease, append_ms=append_ms, next_offset=next_offset)

    patch.attribute(RunTable, "eligible", hasty)
    patch.attribute(ConsumerGroup, "lease", lax)


@mutant("polls-forgotten", "B25", "long polls are forgotten when the leadership ends")
def _(patch: Patch) -> None:
    patch.attribute(PartitionService, "on_leadership_lost", lambda service, error: None)


@mutant("nobody-woken", "B26", "long polls are not woken by what becomes available")
def _(patch: Patch) -> None:
    patch.attribute(PartitionService, "after_pump", lambda service: None)


@mutant("polls-never-end", "B26 B25", "long polls that find nothing do not end")
def _(patch: Patch) -> None:
    patch.attribute(PartitionService, "_end_polls", lambda service: None)


@mutant("wall-clock", "B27", "log time follows the wall clock", FaultKind.CLOCK_STEP)
def _(patch: Patch) -> None:
    def follow(clock: LeaderClock, reading: Reading, *, previous_ms: int) -> int:
        del clock, previous_ms
        return reading.wall_ns // 1_000_000

    patch.attribute(LeaderClock, "append_ms", follow)


@mutant(
    "middle-of-few",
    "B27",
    "a leadership begins at the middle of the clocks that are heard of, though half of them may be wrong",
    test="tests/unit/partition/test_log_time.py",
)
def _(patch: Patch) -> None:
    judge = LogClock._judge

    def trusting(clock: LogClock, reading: Reading) -> None:
        judge(clock, reading)
        clock._lead_ns = None

    patch.attribute(LogClock, "_judge", trusting)


@mutant(
    "lone-clock",
    "B27",
    "a leader believes its own wall clock, whatever the others' show, and goes on from it",
    FaultKind.CLOCK_JUMP,
)
def _(patch: Patch) -> None:
    judge = LogClock._judge

    def agree(clock: LogClock, reading: Reading) -> None:
        judge(clock, reading)
        clock._verdict = clock._decisive = Verdict.AGREES

    def follow(clock: LeaderClock, reading: Reading, *, previous_ms: int) -> int:
        del clock
        return max(previous_ms, reading.wall_ns // 1_000_000)

    patch.attribute(LogClock, "_judge", agree)
    patch.attribute(LeaderClock, "append_ms", follow)
    patch.attribute(LogClock, "floor_by_time_allowed", lambda clock, reading: True)
    patch.attribute(ReadingClock, "may_stamp", lambda clock: True)


@mutant("local-retention", "B28", "each replica raises its log start by what it has itself, and not by the log")
def _(patch: Patch) -> None:
    apply = PartitionMachine.apply

    def local(machine: PartitionMachine, entry: Entry) -> Applied:
        made = apply(machine, entry)
        if machine.next_offset - machine.log_start_offset > 60 and entry.index % 5 == 0:
            machine.log_start_offset = Offset(machine.next_offset - 60)
            for group in machine._groups.values():
                group.drop_below(machine.log_start_offset)
        return made

    patch.attribute(PartitionMachine, "apply", local)


@mutant("floor-beyond-committed", "B28", "retention takes messages that have not reached their age")
def _(patch: Patch) -> None:
    from logbroker.partition import retention

    first_kept_ms = retention.first_kept_ms

    def early(now_ms: int, *, retention_s: int) -> int:
        return first_kept_ms(now_ms, retention_s=retention_s) + retention_s * 900

    patch.function(first_kept_ms, early)


@mutant("floor-forgotten", "B29", "after a restart the log begins where it began before the retention")
def _(patch: Patch) -> None:
    def lower(machine: PartitionMachine) -> None:
        machine.log_start_offset = Offset(machine.log_start_offset // 2)

    _after_decode(patch, lower)


@mutant("apply-depends-on-process", "B37", "what apply does depends on the process that it runs in")
def _(patch: Patch) -> None:
    begin_serving = Replica._begin_serving
    apply = PartitionMachine.apply
    leaders: list[PartitionMachine] = []

    def remember(replica: Replica) -> None:
        if isinstance(replica.machine, PartitionMachine):
            leaders.append(replica.machine)
        begin_serving(replica)

    def biased(machine: PartitionMachine, entry: Entry) -> Applied:
        made = apply(machine, entry)
        if entry.index % 9 == 0 and any(machine is leader for leader in leaders[-2:]):
            machine.producers.record(
                1, epoch=0, base_sequence=0, count=1, base_offset=machine.next_offset, append_ms=machine.append_ms
            )
        return made

    patch.attribute(Replica, "_begin_serving", remember)
    patch.attribute(PartitionMachine, "apply", biased)


@mutant("leases-never-forgotten", "B38", "leases that hold nothing any more stay in the table")
def _(patch: Patch) -> None:
    reduce = LeaseTable.reduce

    def keeping(table: LeaseTable, lease: int, count: int) -> None:
        record = table.get(lease)
        if record is None or record.held > count:
            reduce(table, lease, count)
        elif record.session:
            table._by_request.delete((record.session, record.request_id))

    patch.attribute(LeaseTable, "reduce", keeping)


@mutant("batches-never-forgotten", "B38", "every batch of a producer is remembered for ever")
def _(patch: Patch) -> None:
    from logbroker.partition.producers import ProducerState, last_sequence

    def growing(
        producers: Producers,
        producer_id: int,
        *,
        epoch: int,
        base_sequence: int,
        count: int,
        base_offset: int,
        append_ms: int,
    ) -> None:
        state = producers._states.get(producer_id)
        batch = (base_sequence, last_sequence(base_sequence, count), base_offset)
        known = () if state is None or state.epoch != epoch else state.batches
        producers._states[producer_id] = ProducerState(producer_id, epoch, (*known, batch), append_ms)
        producers._states.move_to_end(producer_id)

    patch.attribute(Producers, "record", growing)


@mutant("bomb-taken", "B39", "a compressed batch is taken whatever its content would come to")
def _(patch: Patch) -> None:
    check_frame = compression.check_frame

    def careless(frame: Buffer, limit_bytes: int) -> int:
        del limit_bytes
        return min(check_frame(frame, 1 << 62), 1 << 20)

    patch.attribute(compression, "MAX_RATIO", 1 << 40)
    patch.function(check_frame, careless)


@mutant("checksum-of-batch-unchecked", "B7", "a batch that was damaged on its way from the client is taken")
def _(patch: Patch) -> None:
    from logbroker.record import batch

    patch.function(batch._parse_whole, batch._parse_header)


@mutant("rewind-one-late", "B19", "a rewind to a time begins one message late")
def _(patch: Patch) -> None:
    resolve = PartitionService._resolve_time

    def late(service: PartitionService, ms: int, *, clamp: bool) -> tuple[Offset, bool]:
        found, was_clamped = resolve(service, ms, clamp=clamp)
        return Offset(min(found + 1, service._ahead().next_offset)), was_clamped

    patch.attribute(PartitionService, "_resolve_time", late)


@mutant("rewind-done-twice", "B22", "a rewind that is asked for again is done again")
def _(patch: Patch) -> None:
    def forget(history: RewindHistory, rewind_id: int) -> RewindRecord | None:
        del history, rewind_id
        return None

    patch.attribute(RewindHistory, "find", forget)


@mutant("rewind-keeps-leases", "B22", "a rewind leaves what is leased to its consumer")
def _(patch: Patch) -> None:
    rewind = ConsumerGroup.rewind

    def keeping(group: ConsumerGroup, change: Rewind, **place: object) -> object:
        held = [run for run in group.table.runs() if run.state is RunState.LEASED]
        made = rewind(group, change, **place)  # type: ignore[arg-type]  # handed through
        if isinstance(made, outcomes.Rewound) and not made.repeated:
            for run in held:
                if group.leases.get(run.lease) is not None:
                    continue
                group.table.put([run])
                group.leases.add(LeaseRecord(run.lease, ((run.start, run.end),), run.end - run.start, "", 0, 0))
        return made

    patch.attribute(ConsumerGroup, "rewind", keeping)


@mutant("lease-of-other-request", "B24 B26", "a retry of a receive gets a lease of its own beside the first")
def _(patch: Patch) -> None:
    patch.attribute(LeaseTable, "find", lambda table, session, request_id: None)


@mutant("release-not-counted-back", "B22", "a lease that nobody got counts as a delivery")
def _(patch: Patch) -> None:
    def counting(group: ConsumerGroup, lease: int) -> object:
        record = group.leases.get(lease)
        if record is None:
            return outcomes.Nothing(outcomes.Misfit.STALE, "")
        for start, end in record.ranges:
            for run in group.table.overlap(start, end):
                if run.lease == lease:
                    group.table.put([Run(run.start, run.end, RunState.AVAILABLE, run.deliveries)])
        group._take(lease, record.held)
        return outcomes.Released(group.name, LeaseId(lease), record.held)

    patch.attribute(ConsumerGroup, "release", counting)


@mutant("expired-ack-confirmed", "B23", "an ack after the lease has ended is confirmed, and the message comes again")
def _(patch: Patch) -> None:
    decide_ack = decide.decide_ack

    def kind(
        machine: PartitionMachine,
        group: GroupName,
        *,
        lease: LeaseId,
        ranges: Ranges,
        limits: decide.DecisionLimits = decide.DEFAULT_DECISION_LIMITS,
    ) -> decide.Decision:
        decision = decide_ack(machine, group, lease=lease, ranges=ranges, limits=limits)
        if isinstance(decision, decide.Refused):
            count = sum(end - start for start, end in ranges)
            return decide.Answer(outcomes.Settled(group, lease, count, (), (), (), False), machine.applied_index)
        return decision

    patch.function(decide_ack, kind)


@mutant("expiry-forgets-lease", "B24", "a lease that ran out is leased again without being ended in the log")
def _(patch: Patch) -> None:
    decide_receive = decide.decide_receive

    def silent(machine: PartitionMachine, group: GroupName, **asked: object) -> decide.Decision:
        decision = decide_receive(machine, group, **asked)  # type: ignore[arg-type]  # handed through
        if isinstance(decision, decide.Propose):
            return decide.Propose(tuple(change for change in decision.changes if not isinstance(change, Expire)))
        return decision

    patch.function(decide_receive, silent)
    _no_checks_of_lease(patch)


def _no_checks_of_lease(patch: Patch) -> None:
    take = ConsumerGroup.lease

    def lax(
        group: ConsumerGroup, change: Lease, *, lease: LeaseId, append_ms: int, next_offset: int
    ) -> Leased | Nothing:
        for start, end in change.ranges:
            for run in group.table.overlap(start, end):
                if run.state is RunState.LEASED and run.visible_at_ms <= append_ms:
                    group._take(run.lease, run.end - run.start)
                    group.table.put([Run(run.start, run.end, RunState.AVAILABLE, run.deliveries)])
        return take(group, change, lease=lease, append_ms=append_ms, next_offset=next_offset)

    patch.attribute(ConsumerGroup, "lease", lax)


@mutant("request-of-receive-ignored", "B20", "a receive is answered with more than it asked for")
def _(patch: Patch) -> None:
    choose = PartitionService._choose

    def generous(service: PartitionService, request: ReceiveRequest, max_count: int) -> decide.Decision:
        return choose(service, request, min(1_000, max_count + 1))

    patch.attribute(PartitionService, "_choose", generous)
