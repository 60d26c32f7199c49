"""Each answer a client may get: the true one passes, and one that is not true at any allowed moment is caught."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.errors import (
    InvalidArgumentError,
    NotFoundError,
    OutOfOrderSequenceError,
    StaleLeaseError,
    UnknownOutcomeError,
)
from logbroker.ids import DEFAULT_GROUP, GroupName, Index, LeaseId, NodeId, Offset
from logbroker.node.requests import (
    AckRequest,
    CountTarget,
    DeadRange,
    DeadReply,
    DeadRequest,
    EarliestTarget,
    ExtendRequest,
    GroupReply,
    GroupState,
    LatestTarget,
    NackRequest,
    OffsetTarget,
    Part,
    PauseRequest,
    ProduceReply,
    ProduceRequest,
    PurgeReply,
    PurgeRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ResumeRequest,
    ReviveReply,
    ReviveRequest,
    RewindReply,
    RewindRequest,
    SettleReply,
    SettleResult,
    StateReply,
    StateRequest,
    TimeTarget,
)
from logbroker.partition.commands import (
    Ack,
    Bury,
    Cause,
    CreateGroup,
    DeleteGroup,
    Nack,
    Pause,
    Purge,
    Resume,
    Revive,
    Rewind,
)
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.record.batch import encode_values
from logbroker.testing.answers import AnswerChecker
from logbroker.testing.history import History, Operation, Verdict
from logbroker.testing.violation import Violation
from tests.simulation.partition_script import GROUP, PartitionScript

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.node.requests import Reply, Request, Target
    from logbroker.partition.outcomes import Leased


class Told:
    """A partition, and what a client was told about it."""

    def __init__(self) -> None:
        self.script = PartitionScript()
        self.batch = encode_values([b"a", b"b"], timestamp_ms=1, producer_id=5, producer_epoch=0, base_sequence=0)
        self.script.produce(b"a", b"b", producer_id=5, base_sequence=0)
        self.script.now_ms += 1_000
        self.script.produce(*(b"value-%d" % number for number in range(6)))

    def check(
        self,
        request: Request,
        told: Reply | LogBrokerError,
        *,
        before: int | None = None,
        applied: int | None = None,
        verdict: Verdict | None = None,
        had_more: bool = True,
    ) -> None:
        """Judge an answer that was asked for at commit `before` and made at `applied`; the log's end if not given."""
        last = self.script.model.last_index
        history = History()
        operation = history.begin(
            "c", NodeId(1), GROUP, request, now_us=0, committed=Index(last if before is None else before)
        )
        operation.had_more_at_reply = had_more
        error = told if isinstance(told, Exception) else None
        history.complete(
            operation,
            now_us=1,
            applied=Index(last if applied is None else applied),
            answer=None if isinstance(told, Exception) else told,
            error=error,
            verdict=verdict or (Verdict.OK if error is None else Verdict.REFUSED),
        )
        AnswerChecker(self.script.model).check(operation)

    def rule_broken_by(
        self,
        request: Request,
        told: Reply | LogBrokerError,
        *,
        before: int | None = None,
        applied: int | None = None,
        had_more: bool = True,
    ) -> str:
        with pytest.raises(Violation) as caught:
            self.check(request, told, before=before, applied=applied, had_more=had_more)
        return caught.value.rule

    def lease(self, count: int = 3) -> Leased:
        leased = self.script.receive(max_count=count, hide_ms=5_000)
        assert leased is not None
        return leased

    def ack(self, lease: LeaseId, start: int, end: int) -> None:
        self.script.change(Ack(DEFAULT_GROUP, lease, ((start, end),)))


# Producing.

PRODUCED = ProduceReply(Offset(0), 2, 1_000_000)


def test_a_true_confirmation_passes() -> None:
    told = Told()
    told.check(ProduceRequest(told.batch), PRODUCED)


@pytest.mark.parametrize(
    "reply",
    [replace(PRODUCED, base_offset=Offset(1)), replace(PRODUCED, count=3), replace(PRODUCED, base_offset=Offset(7))],
)
def test_a_confirmation_of_what_is_not_there_is_caught(reply: ProduceReply) -> None:
    told = Told()
    rule = told.rule_broken_by(ProduceRequest(told.batch), reply)
    assert rule == "confirmed messages are in the log at their offset"


def test_a_confirmation_with_another_log_time_is_caught() -> None:
    told = Told()
    rule = told.rule_broken_by(ProduceRequest(told.batch), replace(PRODUCED, append_ms=999))
    assert rule == "a confirmation comes after commit"


def test_a_confirmation_before_the_entry_was_applied_is_caught() -> None:
    told = Told()
    rule = told.rule_broken_by(ProduceRequest(told.batch), PRODUCED, before=0, applied=0)
    assert rule == "a confirmation comes after commit"


def test_an_answer_from_beyond_what_anybody_committed_is_caught() -> None:
    told = Told()
    assert told.rule_broken_by(ProduceRequest(told.batch), PRODUCED, applied=99) == "answers come after commit"


def test_a_sequence_that_was_next_must_not_be_refused() -> None:
    told = Told()
    following = encode_values([b"c"], timestamp_ms=1, producer_id=5, producer_epoch=0, base_sequence=2)
    rule = told.rule_broken_by(ProduceRequest(following), OutOfOrderSequenceError("no"))
    assert rule == "a producer's batches are remembered"


def test_a_batch_among_the_last_five_must_not_be_refused() -> None:
    told = Told()
    rule = told.rule_broken_by(ProduceRequest(told.batch), OutOfOrderSequenceError("no"))
    assert rule == "a producer's batches are remembered"


def test_a_sequence_that_skips_may_be_refused() -> None:
    told = Told()
    skipping = encode_values([b"c"], timestamp_ms=1, producer_id=5, producer_epoch=0, base_sequence=3)
    told.check(ProduceRequest(skipping), OutOfOrderSequenceError("no"))


def test_a_good_batch_must_not_be_called_invalid() -> None:
    told = Told()
    assert told.rule_broken_by(ProduceRequest(told.batch), InvalidArgumentError("?")) == "good requests are not refused"


def test_a_timeout_is_not_judged() -> None:
    told = Told()
    told.check(ProduceRequest(told.batch), UnknownOutcomeError("?"), applied=0, verdict=Verdict.UNKNOWN)


# Receiving.


def received(told: Told, leased: Leased) -> tuple[ReceiveRequest, ReceiveReply]:
    granted = told.script.model.groups[DEFAULT_GROUP].leases[leased.lease]
    request = ReceiveRequest(DEFAULT_GROUP, 3, 5_000, session=granted.session, request_id=granted.request_id)
    entries = told.script.entries
    parts = (
        Part(entries[0].payload, Offset(0), entries[0].append_ms, ((0, 2, 1),)),
        Part(entries[1].payload, Offset(2), entries[1].append_ms, ((2, 3, 1),)),
    )
    return request, ReceiveReply(leased.lease, leased.visible_at_ms, 5_000, parts)


def test_a_true_delivery_passes() -> None:
    told = Told()
    told.check(*received(told, told.lease()))


def test_a_lease_that_is_not_committed_is_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    assert told.rule_broken_by(request, reply, applied=2) == "leases are committed before they are given"
    invented = replace(reply, lease=LeaseId(reply.lease + 1))
    assert told.rule_broken_by(request, invented) == "leases are committed before they are given"


def test_somebody_elses_lease_is_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    assert told.rule_broken_by(replace(request, session=1), reply) == "a lease belongs to one request"


def test_a_wrong_delivery_count_is_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    wrong = replace(reply, parts=(replace(reply.parts[0], ranges=((0, 2, 2),)),))
    assert told.rule_broken_by(request, wrong) == "a delivery is counted as the log counts it"


def test_a_message_that_the_lease_does_not_hold_is_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    wrong = replace(reply, parts=(reply.parts[0], replace(reply.parts[1], ranges=((3, 4, 1),))))
    assert told.rule_broken_by(request, wrong) == "a delivery is counted as the log counts it"


def test_other_bytes_than_those_confirmed_are_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    forged = encode_values([b"a", b"B"], timestamp_ms=1)
    wrong = replace(reply, parts=(replace(reply.parts[0], batch=forged),))
    assert told.rule_broken_by(request, wrong) == "what is delivered is what was confirmed"


def test_a_message_given_up_as_corrupt_is_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    wrong = replace(reply, parts=(replace(reply.parts[0], corrupt=True),))
    assert told.rule_broken_by(request, wrong) == "no confirmed message is corrupt"


def test_a_wrong_log_time_of_a_message_is_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    wrong = replace(reply, parts=(replace(reply.parts[0], append_ms=5),))
    assert told.rule_broken_by(request, wrong) == "log time is given as it stands in the log"


def test_more_messages_than_asked_for_are_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    rule = told.rule_broken_by(replace(request, max_count=2), reply)
    assert rule == "a receive gets no more than it asked for"


def test_an_overstated_hide_time_is_caught() -> None:
    told = Told()
    request, reply = received(told, told.lease())
    rule = told.rule_broken_by(request, replace(reply, hide_left_ms=5_001))
    assert rule == "the hide time that is left is not overstated"


def test_a_repeated_receive_of_what_was_acked_long_before_is_caught() -> None:
    told = Told()
    leased = told.lease()
    told.ack(leased.lease, 0, 3)
    request, reply = received(told, leased)
    assert told.rule_broken_by(request, reply) == "only held messages are given again"
    # Asked before the ack was committed it may have been true.
    told.check(request, reply, before=leased.lease >> 16)


# Settling.


def settled(lease: int, count: int, **rest: object) -> SettleReply:
    return SettleReply((SettleResult(LeaseId(lease), count, **rest),))  # type: ignore[arg-type]  # fields by name


def test_a_true_ack_passes_and_is_judged_by_its_window() -> None:
    told = Told()
    leased = told.lease()
    before = told.script.model.last_index
    told.ack(leased.lease, 0, 3)
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    told.check(request, settled(leased.lease, 3), before=before)
    rule = told.rule_broken_by(request, settled(leased.lease, 3))
    assert rule == "what is settled is settled in the log"


def test_an_ack_that_is_not_in_the_log_is_caught() -> None:
    told = Told()
    leased = told.lease()
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    assert told.rule_broken_by(request, settled(leased.lease, 3)) == "what is settled is settled in the log"


def test_a_nack_that_was_an_ack_is_caught() -> None:
    told = Told()
    leased = told.lease()
    before = told.script.model.last_index
    told.ack(leased.lease, 0, 3)
    request = NackRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    rule = told.rule_broken_by(request, settled(leased.lease, 3), before=before)
    assert rule == "what is settled is settled in the log"


def test_a_true_nack_and_a_true_extension_pass() -> None:
    told = Told()
    leased = told.lease()
    before = told.script.model.last_index
    told.check(ExtendRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),), 2_000), settled(leased.lease, 3))
    told.script.change(Nack(DEFAULT_GROUP, leased.lease, ((0, 3),), 0, ""))
    told.check(NackRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),)), settled(leased.lease, 3), before=before)


def test_a_reject_that_was_a_nack_is_caught() -> None:
    told = Told()
    leased = told.lease()
    before = told.script.model.last_index
    told.script.change(Nack(DEFAULT_GROUP, leased.lease, ((0, 3),), 0, ""))
    request = RejectRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    rule = told.rule_broken_by(request, settled(leased.lease, 3), before=before)
    assert rule == "what is settled is settled in the log"


def test_the_dead_are_judged_by_what_the_log_says_of_them() -> None:
    told = Told()
    leased = told.lease()
    before = told.script.model.last_index
    told.script.change(Bury(DEFAULT_GROUP, leased.lease, ((0, 2),), Cause.REJECTED, "no"))
    told.check(RejectRequest(DEFAULT_GROUP, ((leased.lease, ((0, 2),)),)), settled(leased.lease, 2), before=before)
    (burial,) = told.script.model.groups[DEFAULT_GROUP].burials[0]
    row = DeadRange(Offset(0), Offset(2), 1, burial.append_ms, Cause.REJECTED, "no", burial.consumer)
    request = DeadRequest(DEFAULT_GROUP)
    told.check(request, DeadReply((row,)))
    assert told.rule_broken_by(request, DeadReply((replace(row, end=Offset(3)),))) == "who is listed as dead is dead"
    for wrong in (replace(row, deliveries=2), replace(row, reason="yes"), replace(row, cause=Cause.MAX_DELIVERIES)):
        assert told.rule_broken_by(request, DeadReply((wrong,))) == "the dead are listed with why they died"


def test_a_revival_that_says_too_much_is_caught() -> None:
    told = Told()
    leased = told.lease()
    told.script.change(Bury(DEFAULT_GROUP, leased.lease, ((0, 2),), Cause.REJECTED, "no"))
    before = told.script.model.last_index
    told.script.change(Revive(DEFAULT_GROUP, ((0, 1),)))
    request = ReviveRequest(DEFAULT_GROUP, ((0, 1),))
    told.check(request, ReviveReply(1), before=before)
    assert told.rule_broken_by(request, ReviveReply(2), before=before) == "a revival says what it revived"


DONE = GroupReply(DEFAULT_GROUP, Offset(0))


def test_a_pause_that_is_not_in_the_log_is_caught() -> None:
    told = Told()
    request = PauseRequest(DEFAULT_GROUP, "night")
    rule = "a pause is in the log before it is answered"
    assert told.rule_broken_by(request, DONE) == rule
    told.script.change(Pause(DEFAULT_GROUP, "night", 0))
    told.check(request, DONE)
    assert told.rule_broken_by(request, DONE, applied=told.script.model.last_index - 1) == rule
    assert told.rule_broken_by(PauseRequest(DEFAULT_GROUP, "night", 5_000), DONE) == rule
    assert told.rule_broken_by(PauseRequest(DEFAULT_GROUP, "day"), DONE) == rule


def test_a_resumption_of_what_stays_paused_is_caught() -> None:
    told = Told()
    request = ResumeRequest(DEFAULT_GROUP)
    told.check(request, DONE)
    told.script.change(Pause(DEFAULT_GROUP, "night", 0))
    assert told.rule_broken_by(request, DONE) == "a group that is resumed is not paused"
    before = told.script.model.last_index
    told.script.change(Resume(DEFAULT_GROUP))
    told.check(request, DONE, before=before)


def test_a_receive_that_finds_nothing_may_have_come_in_a_pause_but_not_after_it() -> None:
    told = Told()
    nothing = ReceiveReply(LeaseId(0), 0, 0, ())
    request = ReceiveRequest(DEFAULT_GROUP, 1, 1_000)
    rule = "who asks gets what there is"
    assert told.rule_broken_by(request, nothing, had_more=False) == rule
    told.script.change(Pause(DEFAULT_GROUP, "night", told.script.now_ms + 2_000))
    told.check(request, nothing, had_more=False)
    told.script.now_ms += 2_000
    told.script.produce(b"later")
    assert told.rule_broken_by(request, nothing, had_more=False) == rule
    told.script.change(Pause(DEFAULT_GROUP, "night", 0))
    told.script.change(Resume(DEFAULT_GROUP))
    assert told.rule_broken_by(request, nothing, had_more=False) == rule


def test_a_purge_that_is_told_wrongly_is_caught() -> None:
    told = Told()
    leased = told.lease()
    told.script.change(Bury(DEFAULT_GROUP, leased.lease, ((0, 2),), Cause.REJECTED, "no"))
    request = PurgeRequest(DEFAULT_GROUP, 5)
    early = "a purge is in the log before it is answered"
    assert told.rule_broken_by(request, PurgeReply(8, 1, 2)) == early
    told.script.change(Purge(DEFAULT_GROUP, FIRST_PURGE_ID + 5, 8, "all"))
    told.check(request, PurgeReply(8, 1, 2))
    assert told.rule_broken_by(request, PurgeReply(8, 1, 2), applied=told.script.model.last_index - 1) == early
    for wrong in (PurgeReply(7, 1, 2), PurgeReply(8, 0, 2), PurgeReply(8, 1, 1)):
        assert told.rule_broken_by(request, wrong) == "a purge says what it settled"


def test_a_pause_that_is_shown_wrongly_is_caught() -> None:
    told = Told()
    told.script.change(Pause(DEFAULT_GROUP, "night", 0))
    since_ms = told.script.model.append_ms
    true = GroupState(DEFAULT_GROUP, 8, 0, 0, 0, Offset(0), 0, 0, True, "night", since_ms, 0)
    request = StateRequest()

    def told_of(state: GroupState) -> Operation:
        made = History().begin("c", NodeId(1), GROUP, request, now_us=0, committed=Index(0))
        made.answer, made.applied_at_reply = StateReply(Offset(0), Offset(8), 0, (state,)), told.script.model.last_index
        return made

    checker = AnswerChecker(told.script.model)
    assert checker.check_positions(told_of(true))
    for wrong in (replace(true, is_paused=False), replace(true, paused_reason="day"), replace(true, paused_until_ms=9)):
        with pytest.raises(Violation, match="pauses are shown as they are"):
            checker.check_positions(told_of(wrong))


def test_stale_of_what_the_lease_holds_is_caught() -> None:
    told = Told()
    leased = told.lease()
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    assert told.rule_broken_by(request, settled(leased.lease, 0, stale=((0, 3),))) == "stale means not held"
    assert told.rule_broken_by(request, StaleLeaseError("no")) == "stale means not held"


def test_stale_of_what_is_acked_is_caught() -> None:
    told = Told()
    leased = told.lease()
    told.ack(leased.lease, 0, 3)
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    assert told.rule_broken_by(request, settled(leased.lease, 0, stale=((0, 3),))) == "stale means not held"


def test_stale_of_what_the_lease_lost_passes() -> None:
    told = Told()
    leased = told.lease()
    told.script.change(Nack(DEFAULT_GROUP, leased.lease, ((0, 3),), 0, ""))
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    told.check(request, settled(leased.lease, 0, stale=((0, 3),)))
    told.check(request, StaleLeaseError("no"))


def test_already_acked_of_what_is_not_is_caught() -> None:
    told = Told()
    leased = told.lease()
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    assert (
        told.rule_broken_by(request, settled(leased.lease, 2, already=((0, 1),)))
        == "what is settled is settled in the log"
    )
    assert told.rule_broken_by(request, settled(leased.lease, 0, already=((0, 3),))) == "already acked means acked"


def test_expired_of_what_is_kept_is_caught() -> None:
    told = Told()
    leased = told.lease()
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    rule = told.rule_broken_by(request, settled(leased.lease, 0, expired=((0, 3),)))
    assert rule == "expired means below the log start"
    told.script.floor(3)
    told.check(request, settled(leased.lease, 0, expired=((0, 3),)))


def test_rewound_without_a_rewind_is_caught() -> None:
    told = Told()
    leased = told.lease()
    told.script.change(Nack(DEFAULT_GROUP, leased.lease, ((0, 3),), 0, ""))
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    answer = settled(leased.lease, 0, stale=((0, 3),), rewound=True)
    assert told.rule_broken_by(request, answer) == "rewound means that a rewind took it"
    told.script.change(Rewind(DEFAULT_GROUP, 1, 2, "test"))
    told.check(request, answer)


@pytest.mark.parametrize(
    "result",
    [
        SettleResult(LeaseId(0), 3),
        SettleResult(LeaseId(3 << 16), 2),
        SettleResult(LeaseId(3 << 16), 3, already=((0, 1),)),
        SettleResult(LeaseId(3 << 16), 2, already=((4, 5),)),
    ],
)
def test_an_answer_that_does_not_add_up_is_caught(result: SettleResult) -> None:
    told = Told()
    leased = told.lease()
    assert leased.lease == 3 << 16
    request = AckRequest(DEFAULT_GROUP, ((leased.lease, ((0, 3),)),))
    assert told.rule_broken_by(request, SettleReply((result,))) == "every message asked for is answered once"


def test_an_item_without_an_answer_is_caught() -> None:
    told = Told()
    request = AckRequest(DEFAULT_GROUP, ((told.lease().lease, ((0, 3),)),))
    assert told.rule_broken_by(request, SettleReply(())) == "every item is answered"


def test_an_answer_for_a_lease_of_no_group_is_caught() -> None:
    told = Told()
    lost = GroupName("lost")
    request = AckRequest(lost, ((told.lease().lease, ((0, 3),)),))
    rule = told.rule_broken_by(request, settled(request.items[0][0], 0, stale=((0, 3),)))
    assert rule == "leases belong to a group"


# Rewinding.


def rewound(told: Told, target: Target, start: int, *, start_ms: int = 0) -> tuple[RewindRequest, RewindReply]:
    told.script.change(Rewind(DEFAULT_GROUP, 1, start, "test"))
    return RewindRequest(DEFAULT_GROUP, 1, target), RewindReply(1, Offset(start), start_ms, 0, 0, False)


def test_a_rewind_that_says_it_moved_something_else_is_caught() -> None:
    told = Told()
    leased = told.lease()
    told.ack(leased.lease, 0, 1)
    request, reply = rewound(told, EarliestTarget(), 0)
    told.check(request, replace(reply, moved_count=3, revoked_count=2))
    assert told.rule_broken_by(request, replace(reply, moved_count=2)) == "a rewind says what it moved"


@pytest.mark.parametrize(
    ("target", "start"),
    [
        (TimeTarget(1_000_001), 2),
        (TimeTarget(1_001_000), 2),
        (TimeTarget(1_000_000), 0),
        (TimeTarget(1_001_001), 8),
        (TimeTarget(-1_000), 0),
        (TimeTarget(-999), 2),
        (OffsetTarget(Offset(5)), 5),
        (OffsetTarget(Offset(50)), 8),
        (CountTarget(3), 5),
        (CountTarget(30), 0),
        (EarliestTarget(), 0),
        (LatestTarget(), 8),
    ],
)
def test_an_exact_rewind_passes_and_one_beside_it_is_caught(target: Target, start: int) -> None:
    told = Told()
    told.check(*rewound(told, target, start))
    beside = Told()
    assert beside.rule_broken_by(*rewound(beside, target, start - 1 if start else 1)) == "a rewind is exact"


def test_a_rewind_that_is_not_in_the_log_is_caught() -> None:
    told = Told()
    request, reply = RewindRequest(DEFAULT_GROUP, 1, EarliestTarget()), RewindReply(1, Offset(0), 0, 0, 0, False)
    assert told.rule_broken_by(request, reply) == "a rewind is in the log before it is answered"


def test_a_rewind_with_another_time_than_its_start_is_caught() -> None:
    told = Told()
    request, reply = rewound(told, OffsetTarget(Offset(3)), 3, start_ms=1_001_000)
    told.check(request, reply)
    rule = told.rule_broken_by(request, replace(reply, start_ms=1_000_000))
    assert rule == "a rewind names the log time of its start"


# The rest.


def test_a_stale_read_is_caught() -> None:
    told = Told()
    stale = StateReply(Offset(0), Offset(2), 0, ())
    assert told.rule_broken_by(StateRequest(), stale) == "reads are not stale"
    told.check(StateRequest(), stale, before=1)
    assert told.rule_broken_by(StateRequest(), StateReply(Offset(1), Offset(8), 0, ())) == "reads are not stale"


def test_wrong_positions_are_caught_and_those_of_another_moment_are_not_judged() -> None:
    told = Told()
    leased = told.lease()
    told.ack(leased.lease, 1, 2)
    true = GroupState(DEFAULT_GROUP, 5, 2, 0, 1, Offset(0), 0)
    checker = AnswerChecker(told.script.model)

    def operation(state: GroupState, applied: int) -> Operation:
        made = History().begin("c", NodeId(1), GROUP, StateRequest(), now_us=0, committed=Index(0))
        made.answer, made.applied_at_reply = StateReply(Offset(0), Offset(8), 0, (state,)), Index(applied)
        return made

    last = told.script.model.last_index
    assert checker.check_positions(operation(true, last))
    assert not checker.check_positions(operation(replace(true, leased=9), last - 1))
    for wrong in (replace(true, leased=3), replace(true, acked_ahead=0), replace(true, oldest_offset=Offset(1))):
        with pytest.raises(Violation, match="positions are exact"):
            checker.check_positions(operation(wrong, last))


def test_a_consumer_group_that_is_there_must_be_found() -> None:
    told = Told()
    request = ReceiveRequest(DEFAULT_GROUP, 1, 1_000)
    assert told.rule_broken_by(request, NotFoundError("no")) == "consumer groups stay"


def test_a_consumer_group_may_be_missing_while_it_is_made_or_deleted() -> None:
    told = Told()
    name = GroupName("group")
    request = ReceiveRequest(name, 1, 1_000)
    told.check(request, NotFoundError("no"))
    told.script.change(CreateGroup(name, 0))
    made = told.script.model.last_index
    told.check(request, NotFoundError("no"), before=made - 1)
    assert told.rule_broken_by(request, NotFoundError("no")) == "consumer groups stay"
    told.script.change(DeleteGroup(name))
    told.check(request, NotFoundError("no"), before=made)
