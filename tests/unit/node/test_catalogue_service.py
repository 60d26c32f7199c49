"""The meta leader's side: what is proposed, what is refused, and when an answer may be given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from logbroker.entry import Entry, EntryKind
from logbroker.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    NotLeaderError,
    UnknownOutcomeError,
)
from logbroker.ids import META_GROUP, Index, Offset, QueueName, Term
from logbroker.node.catalogue import Catalogue, CatalogueLimits
from logbroker.node.catalogue.commands import CreateQueue, DeleteQueue, decode_commands
from logbroker.node.catalogue.outcomes import QueueStands
from logbroker.node.catalogue.rows import QueueSettings
from logbroker.node.catalogue_service import KEPT_LOG_ENTRIES, MAX_LOG_ENTRIES, CatalogueService
from logbroker.node.requests import StateRequest
from logbroker.partition.commands import decode_floor
from tests.unit.node.catalogue.kit import START_MS, bootstrap, cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.catalogue import Outcome
    from logbroker.node.catalogue.commands import Bootstrap
    from logbroker.node.replica import Replica

ORDERS = CreateQueue(QueueName("orders"), QueueSettings())


@dataclass
class Leader:
    """As much of a serving replica as the service touches; entries are committed when the test says so."""

    machine: Catalogue
    ahead: Catalogue | None = None
    proposed: list[tuple[Entry, Callable[[object], None], Callable[[LogBrokerError], None]]] = field(
        default_factory=list
    )
    waiting: list[tuple[Index, Callable[[], None]]] = field(default_factory=list)

    def require_ahead(self) -> Catalogue:
        if self.ahead is None:
            raise NotLeaderError("this node does not serve group 0")
        return self.ahead

    def stamp_ms(self) -> int:
        return START_MS

    def propose(
        self,
        kind: EntryKind,
        payload: bytes,
        *,
        append_ms: int,
        on_committed: Callable[[object], None],
        on_lost: Callable[[LogBrokerError], None],
    ) -> None:
        ahead = self.require_ahead()
        index = Index(ahead.applied_index + 1)
        entry = Entry(kind, META_GROUP, index, Term(1), Offset(0), Offset(0), append_ms, payload)
        ahead.apply(entry)
        self.proposed.append((entry, on_committed, on_lost))

    def when_applied(
        self, index: Index, on_applied: Callable[[], None], on_lost: Callable[[LogBrokerError], None]
    ) -> None:
        if index <= self.machine.applied_index:
            on_applied()
        else:
            self.waiting.append((index, on_applied))

    def commit(self) -> None:
        while self.proposed:
            entry, on_committed, _ = self.proposed.pop(0)
            on_committed(self.machine.apply(entry))
        for _, on_applied in self.waiting:
            on_applied()
        self.waiting.clear()


def leading(
    catalogue: Catalogue, *, first: Bootstrap | None = None, limits: CatalogueLimits | None = None
) -> tuple[CatalogueService, Leader]:
    leader = Leader(catalogue, catalogue.clone())
    service = CatalogueService(cast("Replica", leader), limits=limits or CatalogueLimits(), bootstrap=lambda: first)
    return service, leader


class Answers(list["Outcome | LogBrokerError"]):
    def __call__(self, outcome: Outcome | LogBrokerError) -> None:
        self.append(outcome)


def test_a_command_is_answered_when_it_is_applied_and_not_before() -> None:
    service, leader = leading(cluster())
    answers = Answers()
    service.propose(ORDERS, answers)
    assert answers == []
    leader.commit()
    assert isinstance(answers[0], QueueStands)


def test_what_the_catalogue_refuses_never_reaches_the_log() -> None:
    service, leader = leading(cluster())
    answers = Answers()
    service.propose(DeleteQueue(QueueName("orders")), answers)
    assert leader.proposed == []
    assert isinstance(answers[0], NotFoundError)


def test_a_limit_of_the_configuration_is_held_before_the_log() -> None:
    service, leader = leading(cluster(), limits=CatalogueLimits(max_queues=0))
    answers = Answers()
    service.propose(ORDERS, answers)
    assert leader.proposed == []
    assert isinstance(answers[0], LogBrokerError)


def test_an_answer_that_rests_on_what_is_not_committed_waits_for_it() -> None:
    service, leader = leading(cluster())
    answers = Answers()
    service.propose(ORDERS, Answers())
    service.propose(ORDERS, answers)
    service.propose(CreateQueue(QueueName("orders"), QueueSettings(partitions=2)), answers)
    assert len(leader.proposed) == 1
    assert answers == []
    leader.commit()
    same, other = answers
    assert isinstance(same, QueueStands)
    assert same.already
    assert isinstance(other, AlreadyExistsError)


def test_a_lost_leadership_leaves_the_outcome_unknown() -> None:
    service, leader = leading(cluster())
    answers = Answers()
    service.propose(ORDERS, answers)
    leader.proposed[0][2](UnknownOutcomeError("leadership moved"))
    assert isinstance(answers[0], UnknownOutcomeError)


def test_a_node_that_does_not_lead_says_so() -> None:
    service, leader = leading(cluster())
    leader.ahead = None
    answers = Answers()
    service.propose(ORDERS, answers)
    assert isinstance(answers[0], NotLeaderError)


def test_the_first_leader_proposes_the_record_once() -> None:
    service, leader = leading(Catalogue.new(), first=bootstrap(1, 2, 3))
    service.on_leading()
    service.on_tick(0)
    (proposed,) = leader.proposed
    assert decode_commands(proposed[0].payload) == (bootstrap(1, 2, 3),)
    leader.commit()
    assert service.catalogue.is_bootstrapped


def test_a_later_leader_proposes_nothing() -> None:
    for catalogue, first in ((cluster(), bootstrap(1, 2, 3)), (Catalogue.new(), None)):
        service, leader = leading(catalogue, first=first)
        service.on_leading()
        service.on_tick(0)
        assert leader.proposed == []


def test_a_long_log_is_cut_and_a_good_part_of_it_kept() -> None:
    catalogue = cluster()
    catalogue.applied_index = Index(MAX_LOG_ENTRIES + 5)
    service, leader = leading(catalogue)
    service.on_tick(0)
    service.on_tick(0)
    (proposed,) = leader.proposed
    assert proposed[0].kind is EntryKind.FLOOR
    assert decode_floor(proposed[0].payload).start_index == MAX_LOG_ENTRIES + 5 - KEPT_LOG_ENTRIES


def test_requests_of_partitions_are_not_for_it() -> None:
    answers: list[object] = []
    service, _ = leading(cluster())
    service.submit(StateRequest(), answers.append)
    assert isinstance(answers[0], InvalidArgumentError)
