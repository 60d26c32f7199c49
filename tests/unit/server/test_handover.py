from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import GroupId, GroupName, LeaseId
from logbroker.node.requests import ReleaseRequest
from logbroker.server.handover import Handover

if TYPE_CHECKING:
    from logbroker.node.requests import Answer, Request

KEY = (GroupId(4), LeaseId(70))
BILLING = GroupName("billing")


class Desk:
    def __init__(self) -> None:
        self.released: list[tuple[GroupId, Request]] = []
        self.handover = Handover(self.submit)

    def submit(self, group: GroupId, request: Request, answer: Answer) -> None:
        self.released.append((group, request))


def test_a_lease_whose_reply_was_never_written_goes_back_with_the_second_sweep() -> None:
    desk, owner = Desk(), object()
    desk.handover.begin(KEY, owner)
    desk.handover.lost(KEY, BILLING, owner)
    desk.handover.sweep()
    assert desk.released == []
    desk.handover.sweep()
    assert desk.released == [(GroupId(4), ReleaseRequest(BILLING, LeaseId(70)))]
    assert desk.handover.released == 1
    assert desk.handover.open_count == 0


def test_a_lease_whose_reply_was_written_stays() -> None:
    desk, owner = Desk(), object()
    desk.handover.begin(KEY, owner)
    desk.handover.written(KEY, owner)
    desk.handover.lost(KEY, BILLING, owner)
    desk.handover.sweep()
    desk.handover.sweep()
    assert desk.released == []


def test_a_repeat_on_another_connection_takes_the_lease_over_before_or_after_the_first_is_lost() -> None:
    desk, first, second = Desk(), object(), object()
    desk.handover.begin(KEY, first)
    desk.handover.begin(KEY, second)
    desk.handover.lost(KEY, BILLING, first)
    desk.handover.sweep()
    desk.handover.sweep()
    assert desk.released == []
    desk.handover.lost(KEY, BILLING, second)
    desk.handover.sweep()
    desk.handover.begin(KEY, first)
    desk.handover.sweep()
    desk.handover.sweep()
    assert desk.released == []


def test_a_lease_made_for_somebody_who_was_gone_goes_back_unless_somebody_has_it() -> None:
    desk = Desk()
    desk.handover.unwanted(KEY, BILLING)
    desk.handover.begin(KEY, object())
    desk.handover.unwanted(KEY, BILLING)
    desk.handover.sweep()
    desk.handover.sweep()
    assert desk.released == []
    other = (GroupId(4), LeaseId(71))
    desk.handover.unwanted(other, BILLING)
    desk.handover.sweep()
    desk.handover.sweep()
    assert desk.released == [(GroupId(4), ReleaseRequest(BILLING, LeaseId(71)))]
