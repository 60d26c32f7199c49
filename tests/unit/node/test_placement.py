"""What a node does because of the catalogue, decision by decision; moves are played through to their end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from logbroker.ids import META_GROUP, GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.catalogue.commands import (
    DeleteQueue,
    JoinNode,
    PromoteReplica,
    RemoveReplica,
    SetMembers,
    StartMove,
    StopMove,
)
from logbroker.node.placement import (
    BALANCE_AFTER_MS,
    LOOK_EVERY_MS,
    MAX_LEARNER_LAG,
    REPORT_EVERY_MS,
    Creation,
    GroupStep,
    Placement,
    decide_duties,
    decide_step,
    preferred_leader,
)
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal, Transition, change_config
from logbroker.raft.core import ProgressStatus
from logbroker.raft.messages import ConfState, Role
from logbroker.raft.progress import ProgressState
from tests.unit.node.catalogue.kit import apply, cluster, create, join, life, node

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logbroker.node.catalogue import Catalogue
    from logbroker.node.catalogue.commands import Command
    from logbroker.node.engine import Engine
    from logbroker.node.placement import Duties
    from logbroker.node.replica import Replica

LAST = Index(1_000)
PARTITION = GroupId(1)


def duties(
    catalogue: Catalogue,
    number: int = 1,
    *,
    held: dict[int, int] | None = None,
    lost: Iterable[int] = (),
    alive: int = 1,
) -> Duties:
    return decide_duties(
        catalogue,
        NodeId(number),
        life(alive),
        held={ReplicaId(replica): GroupId(group) for replica, group in (held or {}).items()},
        lost={ReplicaId(replica): "torn" for replica in lost},
    )


def with_queue() -> Catalogue:
    """Nodes 1 to 3 with meta replicas 1 to 3; group 1 with replicas 4 to 6 on them, the first on node 2."""
    catalogue = cluster()
    create(catalogue, "q")
    return catalogue


def on(catalogue: Catalogue, number: int) -> int:
    row = catalogue.group(GroupId(1))
    assert row is not None
    return next(held.replica for held in row.replicas if held.node == number)


# Own replicas.


def test_what_is_missing_is_created_as_the_empty_log_has_it() -> None:
    catalogue = with_queue()
    assert duties(catalogue, held={1: 0}).create == (
        Creation(GroupId(1), ReplicaId(on(catalogue, 1)), (ReplicaId(4), ReplicaId(5), ReplicaId(6))),
    )


def test_what_is_held_is_left_alone() -> None:
    catalogue = with_queue()
    found = duties(catalogue, held={1: 0, on(catalogue, 1): 1})
    assert (found.create, found.remove, found.report, found.problems) == ((), (), (), ())


def test_another_life_of_the_node_creates_nothing_that_is_not_its_own() -> None:
    assert duties(with_queue(), alive=2).create == ()


def test_a_new_life_creates_its_new_replicas_with_the_first_voters_and_so_has_no_vote() -> None:
    catalogue = with_queue()
    join(catalogue, 1, alive=2)
    meta, partition = duties(catalogue, alive=2).create
    assert meta.voters == (1, 2, 3)
    assert meta.replica not in meta.voters
    assert partition.voters == (4, 5, 6)
    assert partition.replica not in partition.voters


def test_a_replica_of_a_deleted_queue_is_removed() -> None:
    catalogue = with_queue()
    mine = on(catalogue, 1)
    apply(catalogue, DeleteQueue("q"))  # type: ignore[arg-type]
    assert duties(catalogue, held={1: 0, mine: 1}).remove == (mine,)


def test_a_replica_that_the_catalogue_has_never_named_is_kept_and_reported() -> None:
    found = duties(with_queue(), held={1: 0, 99: 7})
    assert found.remove == ()
    assert found.problems == ("replica 99 of group 7 is not known to the catalogue; it is kept",)


def test_a_lost_replica_is_not_created_again_but_its_replacement_is_asked_for() -> None:
    catalogue = with_queue()
    mine = on(catalogue, 1)
    found = duties(catalogue, held={1: 0, mine: 1}, lost=[mine])
    assert found.create == ()
    assert found.report == (StartMove(GroupId(1), ReplicaId(mine), NodeId(1)),)
    assert found.problems == (f"replica {mine} is lost and waits for its replacement: torn",)


def test_a_lost_replica_whose_group_is_forgotten_is_neither_removed_nor_created() -> None:
    # Without a flush record only the ids are known; all of them seem to be of group 0.
    catalogue = with_queue()
    mine = on(catalogue, 1)
    found = duties(catalogue, held={1: 0, mine: 0}, lost=[1, mine])
    assert (found.create, found.remove) == ((), ())
    assert len(found.report) == 2


def test_the_replacement_of_a_lost_replica_is_created_beside_it() -> None:
    catalogue = with_queue()
    mine = on(catalogue, 1)
    apply(catalogue, StartMove(GroupId(1), ReplicaId(mine), NodeId(1)))
    found = duties(catalogue, held={1: 0, mine: 1}, lost=[mine])
    assert [creation.replica for creation in found.create] == [7]
    assert found.report == ()


def test_a_replacement_waits_until_the_old_replica_on_the_same_node_is_gone() -> None:
    catalogue = with_queue()
    mine = on(catalogue, 1)
    apply(catalogue, StartMove(GroupId(1), ReplicaId(mine), NodeId(1)))
    assert duties(catalogue, held={1: 0, mine: 1}).create == ()


def test_a_leaving_voter_that_was_never_created_is_created_for_its_vote() -> None:
    catalogue = with_queue()
    join(catalogue, 4)
    apply(catalogue, SetMembers(tuple(map(NodeId, (2, 3, 4)))))
    mine = on(catalogue, 1)
    assert [creation.replica for creation in duties(catalogue, held={1: 0}).create] == [mine]


# The groups that this node leads.


def progress(replica: int, *, match: int = LAST, state: ProgressState = ProgressState.REPLICATE) -> ProgressStatus:
    return ProgressStatus(
        ReplicaId(replica), state, Index(match), Index(match + 1), False, False, True, 0, 0, False, Index(0)
    )


def conf(*voters: int, learners: tuple[int, ...] = ()) -> ConfState:
    return ConfState(tuple(map(ReplicaId, voters)), tuple(map(ReplicaId, learners)))


def step(
    catalogue: Catalogue,
    configuration: ConfState,
    *others: ProgressStatus,
    own: int = 4,
    group: GroupId = PARTITION,
) -> GroupStep:
    row = catalogue.group(group)
    assert row is not None
    known = {status.replica for status in others}
    statuses = [progress(replica) for replica in configuration.members() if replica not in known]
    return decide_step(row, own=ReplicaId(own), conf=configuration, progress=[*statuses, *others], last_index=LAST)


def changes(found: GroupStep) -> list[tuple[str, int]]:
    return [] if found.change is None else [(change.kind.name, change.replica) for change in found.change.changes]


def moving() -> Catalogue:
    """Replica 5 of group 1 is to be replaced by replica 7 on a new node 4."""
    catalogue = with_queue()
    join(catalogue, 4)
    apply(catalogue, StartMove(GroupId(1), ReplicaId(5), NodeId(4)))
    return catalogue


def test_a_group_at_rest_is_left_alone() -> None:
    assert step(with_queue(), conf(4, 5, 6)) == GroupStep()


def test_who_is_to_come_becomes_a_learner_first() -> None:
    assert changes(step(moving(), conf(4, 5, 6))) == [("ADD_LEARNER", 7)]


@pytest.mark.parametrize(
    "status",
    [
        progress(7, match=LAST - MAX_LEARNER_LAG - 1),
        progress(7, state=ProgressState.SNAPSHOT),
        progress(7, state=ProgressState.PROBE),
        progress(7, match=0),
    ],
)
def test_a_learner_that_is_not_filled_is_waited_for(status: ProgressStatus) -> None:
    assert step(moving(), conf(4, 5, 6, learners=(7,)), status) == GroupStep()


def test_a_learner_that_does_not_answer_is_waited_for() -> None:
    silent = ProgressStatus(
        ReplicaId(7), ProgressState.REPLICATE, LAST, Index(LAST + 1), True, False, False, 0, 0, False, Index(0)
    )
    assert step(moving(), conf(4, 5, 6, learners=(7,)), silent) == GroupStep()


def test_a_filled_learner_comes_as_the_one_it_replaces_goes() -> None:
    found = step(moving(), conf(4, 5, 6, learners=(7,)))
    assert changes(found) == [("ADD_VOTER", 7), ("REMOVE", 5)]
    assert found.change is not None
    assert found.change.transition is Transition.IMPLICIT


def test_nothing_is_asked_for_while_the_configuration_is_joint() -> None:
    joint = change_config(
        conf(4, 5, 6, learners=(7,)),
        ConfigProposal(
            (ConfigChange(ChangeKind.ADD_VOTER, ReplicaId(7)), ConfigChange(ChangeKind.REMOVE, ReplicaId(5))),
            Transition.IMPLICIT,
        ),
    )
    assert step(moving(), joint) == GroupStep()


def test_what_is_done_is_reported_in_its_order() -> None:
    catalogue = moving()
    assert step(catalogue, conf(4, 6, 7)).report == (PromoteReplica(GroupId(1), ReplicaId(7)),)
    apply(catalogue, PromoteReplica(GroupId(1), ReplicaId(7)))
    assert step(catalogue, conf(4, 6, 7)).report == (RemoveReplica(GroupId(1), ReplicaId(5)),)
    apply(catalogue, RemoveReplica(GroupId(1), ReplicaId(5)))
    assert step(catalogue, conf(4, 6, 7)) == GroupStep()


def test_a_leader_that_is_replaced_hands_over_first() -> None:
    found = step(moving(), conf(4, 5, 6, learners=(7,)), own=5)
    assert found.hands_over
    assert found.change is None


def test_a_move_that_was_stopped_takes_the_learner_out_again() -> None:
    catalogue = moving()
    apply(catalogue, StopMove(GroupId(1), ReplicaId(7)))
    assert changes(step(catalogue, conf(4, 5, 6, learners=(7,)))) == [("REMOVE", 7)]
    assert step(catalogue, conf(4, 5, 6)).report == (RemoveReplica(GroupId(1), ReplicaId(7)),)


def test_a_stop_that_came_after_the_change_brings_the_old_voter_back_and_then_takes_the_new_one_out() -> None:
    catalogue = moving()
    apply(catalogue, StopMove(GroupId(1), ReplicaId(7)))
    # The configuration had taken 7 in and 5 out already.
    assert changes(step(catalogue, conf(4, 6, 7))) == [("ADD_LEARNER", 5)]
    assert changes(step(catalogue, conf(4, 6, 7, learners=(5,)))) == [("ADD_VOTER", 5)]
    assert changes(step(catalogue, conf(4, 5, 6, 7))) == [("REMOVE", 7)]


def test_a_voter_goes_with_nothing_in_its_place_only_after_all_who_come_have_come() -> None:
    catalogue = with_queue()
    apply(catalogue, SetMembers((NodeId(1),)))
    stays = on(catalogue, 1)
    going = sorted({4, 5, 6} - {stays})
    assert changes(step(catalogue, conf(4, 5, 6), own=stays)) == [("REMOVE", going[0])]
    left = sorted({stays, going[1]})
    assert changes(step(catalogue, conf(*left), own=stays)) == [("REMOVE", going[1])]


def test_the_last_voter_is_never_removed() -> None:
    catalogue = with_queue()
    apply(catalogue, SetMembers((NodeId(1),)))
    gone = next(replica for replica in (4, 5, 6) if replica != on(catalogue, 1))
    row = catalogue.group(GroupId(1))
    assert row is not None
    alone = msgspec.structs.replace(row, replicas=tuple(held for held in row.replicas if held.replica == gone))
    found = decide_step(alone, own=ReplicaId(gone), conf=conf(gone), progress=[progress(gone)], last_index=LAST)
    assert found == GroupStep()


def test_a_node_with_an_emptied_disk_is_replaced_in_every_group() -> None:
    catalogue = with_queue()
    join(catalogue, 3, alive=2)
    mine = {row.group: row for row in catalogue.groups()}
    for group, lost in ((META_GROUP, 3), (GroupId(1), on(catalogue, 3))):
        voters = [held.replica for held in mine[group].replicas if held.replica in mine[group].initial]
        new = next(held.replica for held in mine[group].replicas if held.replica not in voters)
        assert changes(step(catalogue, conf(*voters), own=voters[0], group=group)) == [("ADD_LEARNER", new)]
        filled = step(catalogue, conf(*voters, learners=(new,)), own=min(set(voters) - {lost}), group=group)
        old = next(held.replica for held in mine[group].replicas if held.node == 3 and held.replica in voters)
        assert changes(filled) == [("ADD_VOTER", new), ("REMOVE", old)]


# Who leads.


def test_the_first_replica_of_a_group_is_preferred_once_it_could_lead() -> None:
    row = with_queue().group(GroupId(1))
    assert row is not None
    first = row.replicas[0].replica
    other = row.replicas[1].replica
    known = [progress(held.replica) for held in row.replicas]
    everybody = {held.replica for held in row.replicas}
    assert preferred_leader(row, own=other, progress=known, with_room=everybody) == first
    assert preferred_leader(row, own=first, progress=known, with_room=everybody) == 0
    lagging = [progress(held.replica, state=ProgressState.PROBE) for held in row.replicas]
    assert preferred_leader(row, own=other, progress=lagging, with_room=everybody) == 0


def test_a_node_without_room_is_not_given_the_leadership_that_it_would_hand_back() -> None:
    row = with_queue().group(GroupId(1))
    assert row is not None
    known = [progress(held.replica) for held in row.replicas]
    others = {held.replica for held in row.replicas[1:]}
    assert preferred_leader(row, own=row.replicas[1].replica, progress=known, with_room=others) == 0


def test_nobody_is_preferred_in_a_group_that_moves() -> None:
    row = moving().group(GroupId(1))
    assert row is not None
    known = [progress(held.replica) for held in row.replicas]
    everybody = {held.replica for held in row.replicas}
    assert preferred_leader(row, own=ReplicaId(6), progress=known, with_room=everybody) == 0


def test_the_same_row_of_a_node_is_not_reported_again() -> None:
    catalogue = with_queue()
    before = catalogue.epoch
    apply(catalogue, JoinNode(node(1)))
    assert catalogue.epoch == before


# When the catalogue may be acted upon.


class Log:
    """As much of a log as is looked at."""

    def __init__(self, last: int, term: int) -> None:
        self._last, self._term = Index(last), Term(term)
        self.is_damaged = False

    def last_index(self) -> Index:
        return self._last

    def term(self, index: Index) -> Term:
        return self._term


def meta(applied: int, term: int, *, log: Log, replica: int = 2, voters: tuple[int, ...] = (1, 2, 3)) -> Replica:
    machine = SimpleNamespace(applied_index=Index(applied), applied_term=Term(term))
    return cast("Replica", SimpleNamespace(id=ReplicaId(replica), log=log, machine=machine, conf=conf(*voters)))


def placement() -> Placement:
    return Placement(cast("Engine", None), node(2), lambda _: None, lambda node, address: None)


def test_a_restarted_node_acts_on_nothing_before_it_has_applied_what_it_had() -> None:
    acting, log = placement(), Log(100, 7)
    assert not acting.is_current(meta(99, 7, log=log))
    assert acting.is_current(meta(100, 7, log=log))


def test_or_before_something_of_a_later_term_is_applied_in_its_place() -> None:
    # The entries at the end of the log were never committed, and a new leader has others there.
    acting, log = placement(), Log(100, 7)
    assert not acting.is_current(meta(95, 7, log=log))
    assert acting.is_current(meta(96, 8, log=log))


def test_the_end_of_the_log_counts_as_it_was_at_the_start() -> None:
    acting = placement()
    assert not acting.is_current(meta(99, 7, log=Log(100, 7)))
    assert acting.is_current(meta(100, 7, log=Log(5_000, 9)))


def test_a_replica_that_came_in_place_of_a_lost_one_counts_once_it_is_a_voter() -> None:
    acting, log = placement(), Log(0, 0)
    assert not acting.is_current(meta(50, 7, log=log, replica=9))
    assert acting.is_current(meta(90, 7, log=log, replica=9, voters=(1, 3, 9)))


def test_a_founder_acts_from_the_first_entry_on() -> None:
    assert placement().is_current(meta(1, 1, log=Log(0, 0)))


# When all groups are looked at.


class Node:
    """A placement of node 1 on as much of an engine as it looks at. `changes` counts as the engine's does."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.reported: list[Command] = []
        self.campaigns: list[int] = []
        self.transfers: list[int] = []
        self.replicas = {META_GROUP: self.replica(1, (1, 2, 3), machine=catalogue)}
        self.lost: dict[ReplicaId, str] = {}
        self.engine = SimpleNamespace(
            changes=0,
            replicas=self.replicas,
            services={},
            store=SimpleNamespace(replicas={}),
            lost=self.lost,
            set_route=lambda replica, node: None,
            create_replica=lambda *_: None,
            others_with_room=lambda replica: replica.conf.voters,
        )
        for group, row in catalogue.replicas_on(NodeId(1), life(1)):
            held = SimpleNamespace(log=SimpleNamespace(replica=row.replica, group=group.group))
            self.engine.store.replicas[row.replica] = held
        self.placement = Placement(
            cast("Engine", self.engine), node(1), self.reported.extend, lambda node, address: None
        )

    def replica(
        self, replica: int, voters: tuple[int, ...], *, machine: object = None, serves: bool = False
    ) -> SimpleNamespace:
        return SimpleNamespace(
            id=ReplicaId(replica),
            log=Log(0, 0),
            machine=machine,
            conf=conf(*voters),
            is_serving=serves,
            leader=0,
            core=SimpleNamespace(role=Role.FOLLOWER, progress=lambda: [progress(voter) for voter in voters]),
            campaign=lambda: self.campaigns.append(replica),
            transfer_leadership=self.transfers.append,
        )

    def looks(self, now_ms: int) -> bool:
        """Whether a round at this time compares everything: then it takes back what is written here."""
        self.placement.problems = ("not looked at",)
        self.placement.reconcile(now_ms)
        return not self.placement.problems


def test_nothing_is_compared_again_while_nothing_changed_but_after_a_while_it_is() -> None:
    held = Node(with_queue())
    assert held.looks(0)
    assert not held.looks(250)
    assert not held.looks(LOOK_EVERY_MS - 1)
    assert held.looks(LOOK_EVERY_MS)
    assert not held.looks(LOOK_EVERY_MS + 1)


def test_what_changed_is_compared_with_the_next_round() -> None:
    held = Node(with_queue())
    assert held.looks(0)
    held.engine.changes += 1
    assert held.looks(1)
    assert not held.looks(2)


def test_what_a_catalogue_not_yet_current_says_is_not_taken_for_all() -> None:
    held = Node(with_queue())
    held.replicas[META_GROUP].conf = conf(2, 3)
    assert not held.looks(0)
    held.replicas[META_GROUP].conf = conf(1, 2, 3)
    assert held.looks(1)


def test_a_report_is_repeated_though_nothing_changed() -> None:
    held = Node(with_queue())
    lost = on(with_queue(), 1)
    held.lost[ReplicaId(lost)] = "bits flipped"
    for now_ms in range(0, 3 * REPORT_EVERY_MS, 250):
        held.placement.reconcile(now_ms)
    assert held.reported == [StartMove(PARTITION, ReplicaId(lost), NodeId(1))] * 3


def test_a_replica_that_is_missing_is_asked_for_until_it_is_there() -> None:
    held = Node(with_queue())
    held.engine.store.replicas.clear()
    assert held.looks(0)
    assert held.looks(1)


def test_leadership_goes_to_the_first_replica_though_nothing_changed() -> None:
    catalogue = with_queue()
    row = catalogue.group(PARTITION)
    assert row is not None
    voters = tuple(replica.replica for replica in row.replicas)
    held = Node(catalogue)
    held.replicas[PARTITION] = held.replica(voters[1], voters, serves=True)
    for now_ms in range(0, BALANCE_AFTER_MS, 250):
        held.placement.reconcile(now_ms)
    assert held.transfers == []
    held.placement.reconcile(BALANCE_AFTER_MS)
    assert held.transfers == [voters[0]]


def test_a_sole_voter_is_asked_to_campaign_again_once_something_changed_or_after_a_while() -> None:
    held = Node(with_queue())
    held.replicas[PARTITION] = held.replica(9, (9,))
    held.placement.first_leaders(0)
    held.placement.first_leaders(1)
    assert held.campaigns == [9]
    held.engine.changes += 1
    held.placement.first_leaders(2)
    assert held.campaigns == [9, 9]
    held.placement.first_leaders(2 + LOOK_EVERY_MS)
    assert held.campaigns == [9, 9, 9]
