"""Cut links, crashes and lost writes: who leads, who is disturbed, and what stays."""

from __future__ import annotations

from logbroker.ids import ReplicaId
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal, Transition
from logbroker.raft.messages import MessageKind, Role
from logbroker.raft.progress import ProgressState
from tests.raft_kit import Cluster, Replica, conf_of

ELECTION = 10


def elected(count: int = 3) -> Cluster:
    made = Cluster.of(count)
    made.elect(1)
    made.tick()
    return made


def test_a_replica_that_was_cut_off_does_not_disturb_when_it_returns() -> None:
    """Thesis 9.6: pre-vote keeps its term where it was."""
    made = elected()
    made.isolate(3)
    made.tick(5 * ELECTION)
    assert (made[3].core.role, made[3].core.term) == (Role.PRE_CANDIDATE, 1)
    made.heal()
    made.tick(2)
    assert (made.leaders(), made[1].core.term, made[3].core.leader) == ([1], 1, 1)


def test_a_follower_that_hears_nothing_but_is_heard_does_not_depose_the_leader() -> None:
    made = elected()
    made.cut |= {(1, 3), (2, 3)}
    made.tick(3 * ELECTION)
    assert (made.leaders(), made[1].core.term) == ([1], 1)


def test_a_leader_that_is_not_heard_is_replaced() -> None:
    made = elected()
    made.cut |= {(1, 2), (1, 3)}
    made.tick(3 * ELECTION)
    assert made.leaders() == [2]
    assert made[2].core.term == 2


def test_a_leader_that_hears_nobody_steps_down_though_all_hear_it() -> None:
    """One-way cut: its heartbeats would keep everybody from electing another."""
    made = elected()
    made.cut |= {(2, 1), (3, 1)}
    made.tick(2 * ELECTION)
    assert made[1].core.role is not Role.LEADER
    made.tick(2 * ELECTION)
    assert made.leaders() == [2]


def test_a_leader_linked_to_one_follower_of_five_gives_up_and_the_rest_goes_on() -> None:
    made = elected(5)
    for other in (3, 4, 5):
        made.cut |= {(1, other), (other, 1)}
    made.tick(4 * ELECTION)
    (leader,) = made.leaders()
    assert leader != 1
    made[leader].propose(b"a")
    made.settle()
    assert made[5].payloads == [b"a"]


def test_a_replica_of_a_newer_term_is_freed_by_the_leader_stepping_down_once() -> None:
    """A candidate of a newer term cannot be asked to forget it, so the group moves to that term."""
    made = elected()
    made.isolate(3)
    made[3].core.campaign(transfer=True)
    made.forget_wire()
    assert made[3].core.term == 2
    made.heal()
    made.tick(4 * ELECTION)
    (leader,) = made.leaders()
    assert made[leader].core.term > 1
    assert {replica.core.term for replica in made.replicas.values()} == {made[leader].core.term}


def test_a_killed_leader_is_replaced_within_one_exchange_when_its_connections_close() -> None:
    """No election timeout passes: every follower ends the lease, and the first that asks is elected."""
    made = elected()
    made.isolate(1)
    for number in (2, 3):
        made[number].core.suspect(ReplicaId(1))
    assert made[2].core.peer_down(ReplicaId(1))
    made.settle()
    assert made.leaders() == [1, 2]
    assert made[2].core.term == 2


def test_without_the_early_hint_the_last_follower_that_notices_is_elected() -> None:
    made = elected(5)
    made.isolate(1)
    for number in (2, 3, 4):
        made[number].core.peer_down(ReplicaId(1))
        made.settle()
    assert made.leaders() == [1, 4]


def test_a_false_alarm_changes_nothing() -> None:
    made = elected()
    made[2].core.peer_down(ReplicaId(1))
    made.settle()
    made.tick()
    assert (made.leaders(), made[2].core.role, made[2].core.leader) == ([1], Role.FOLLOWER, 1)
    assert {replica.core.term for replica in made.replicas.values()} == {1}


def test_an_acknowledged_entry_survives_the_crash_of_every_replica() -> None:
    made = elected()
    made[1].propose(b"a")
    made.settle()
    for replica in made.replicas.values():
        replica.restart()
    made.forget_wire()
    made.elect(3)
    assert made[3].payloads == [b"a"]


def test_a_write_that_was_never_finished_is_not_missed() -> None:
    """The leader's own copy was not durable, but it was never counted either."""
    made = elected()
    made[1].holds_writes = True
    made[1].propose(b"a")
    made.settle()
    assert made[1].core.commit == 2
    made[1].restart()
    made[1].holds_writes = False
    made.elect(2)
    made.tick(2)
    assert [replica.payloads for replica in made.replicas.values()] == [[b"a"]] * 3


def test_a_leader_whose_term_was_not_durable_never_led() -> None:
    """Else it could lead the same term twice and put two entries into one place."""
    made = Cluster.of(3)
    made[1].holds_writes = True
    made[1].core.campaign(transfer=True)
    made.settle()
    assert made.leaders() == []
    made[1].restart()
    assert made[1].core.term == 0
    made[1].holds_writes = False
    made.elect(1)
    assert made[1].core.term == 1


def test_a_follower_that_lags_behind_the_log_gets_a_snapshot_and_goes_on() -> None:
    made = elected()
    made.isolate(3)
    for payload in (b"a", b"b", b"c"):
        made[1].propose(payload)
    made.settle()
    made[1].checkpoint()
    made[1].disk.compact(made[1].base)
    made.heal()
    made.tick(2)
    assert (made[3].disk.first_index(), made[3].core.commit) == (5, 4)
    made[1].propose(b"d")
    made.settle()
    assert made[3].payloads == [b"d"]
    assert all(status.state is ProgressState.REPLICATE for status in made[1].core.progress())


def test_a_lost_snapshot_is_sent_again_when_the_driver_says_so() -> None:
    made = elected()
    made.isolate(3)
    made[1].propose(b"a")
    made.settle()
    made[1].checkpoint()
    made[1].disk.compact(made[1].base)
    made.heal()
    made.drop = lambda message: message.kind is MessageKind.SNAPSHOT
    made.tick(2)
    made.drop = lambda _message: False
    made.tick(5)
    assert made[3].core.last_index == 1
    made[1].core.report_snapshot(ReplicaId(3), ok=False)
    made.tick(2)
    assert made[3].core.last_index == 2


def test_a_new_replica_is_filled_by_a_snapshot_from_before_it_was_added() -> None:
    made = elected()
    made[1].propose(b"a")
    made.settle()
    made[1].checkpoint()
    made[1].disk.compact(made[1].base)
    made.replicas[4] = Replica(4, conf_of())
    made[1].core.propose_config(ConfigProposal((ConfigChange(ChangeKind.ADD_LEARNER, ReplicaId(4)),)))
    made.settle()
    made.tick(2)
    assert made[4].core.conf == conf_of(1, 2, 3, learners=(4,))
    made[1].core.propose_config(ConfigProposal((ConfigChange(ChangeKind.ADD_VOTER, ReplicaId(4)),)))
    made.settle()
    assert made[4].core.conf == conf_of(1, 2, 3, 4)


def test_a_learner_that_was_promoted_without_knowing_votes() -> None:
    """Its vote is needed: of the voters that the others count, only two are left."""
    made = Cluster.of(2, learners=1)
    made.elect(1)
    made.cut |= {(1, 3), (2, 3)}
    made[1].core.propose_config(ConfigProposal((ConfigChange(ChangeKind.ADD_VOTER, ReplicaId(3)),)))
    made.settle()
    made.heal()
    made.isolate(1)
    for number in (2, 3):
        made[number].core.suspect(ReplicaId(1))
    made[2].core.peer_down(ReplicaId(1))
    made.settle()
    assert made[2].core.is_leader
    made.tick()
    assert made[3].core.conf == conf_of(1, 2, 3)


def demoted_with_the_longer_log() -> Cluster:
    """1 knows only from its log that 2 was demoted, and 2 has an entry that 1 lost."""
    made = Cluster.of(2)
    made.elect(1)
    made[1].core.propose_config(
        ConfigProposal((ConfigChange(ChangeKind.ADD_LEARNER, ReplicaId(2)),), Transition.IMPLICIT)
    )
    made.settle()
    assert made[2].core.conf == conf_of(1, learners=(2,))
    made[1].holds_writes = True
    made[1].propose(b"lost by its leader")
    made.settle()
    made[1].restart()
    made[1].holds_writes = False
    return made


def test_a_group_whose_commit_index_was_lost_finds_it_again_in_the_votes() -> None:
    made = demoted_with_the_longer_log()
    assert (made[1].core.conf, made[1].core.commit) == (conf_of(1, 2), 0)
    assert made[2].core.last_index > made[1].core.last_index
    made.tick(4 * ELECTION)
    assert made.leaders() == [1]
    assert made[1].core.conf == conf_of(1, learners=(2,))
    assert made[2].disk.all_entries() == made[1].disk.all_entries()


def test_leadership_moves_without_a_gap() -> None:
    """Thesis 3.10: the target is caught up, elected in one exchange, and serves."""
    made = elected()
    made.cut.add((1, 2))
    made[1].propose(b"a")
    made.settle()
    made.heal()
    made[1].core.transfer_leadership(ReplicaId(2))
    made.tick()
    assert (made.leaders(), made[2].core.term) == ([2], 2)
    made[2].propose(b"b")
    made.settle()
    assert made[3].payloads == [b"a", b"b"]
