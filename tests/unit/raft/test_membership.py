from __future__ import annotations

from typing import Any

import pytest

from logbroker.errors import InvariantError
from logbroker.ids import Index, ReplicaId, Term
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal, Transition
from logbroker.raft.messages import ConfState, HardState, MessageKind, Role
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from tests.raft_kit import Cluster, MemoryLog, Peer, Replica, conf_of, lead


def proposal(*steps: str, transition: Transition = Transition.AUTO) -> ConfigProposal:
    """Steps as `v4` (voter), `l4` (learner), `r4` (remove)."""
    kinds = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE}
    return ConfigProposal(tuple(ConfigChange(kinds[step[0]], ReplicaId(int(step[1:]))) for step in steps), transition)


def refusal(subject: Replica, change: ConfigProposal) -> RefusalReason:
    with pytest.raises(ProposalRefused) as caught:
        subject.core.propose_config(change)
    return caught.value.reason


def cluster(count: int = 3, **more: Any) -> Cluster:  # noqa: ANN401 - fields of RaftConfig
    made = Cluster.of(count, **more)
    made.elect(1)
    return made


def change(made: Cluster, leader: int, what: ConfigProposal) -> None:
    made[leader].core.propose_config(what)
    made.settle()


def test_a_change_is_in_force_when_it_is_applied_and_not_before() -> None:
    made = cluster()
    made[1].holds_applies = True
    change(made, 1, proposal("v4"))
    assert made[1].core.commit == 2
    assert (made[1].core.conf, made[2].core.conf) == (conf_of(1, 2, 3), conf_of(1, 2, 3, 4))
    made[1].apply()
    assert made[1].core.conf == conf_of(1, 2, 3, 4)


def test_one_change_at_a_time() -> None:
    made = cluster()
    made[1].holds_applies = True
    change(made, 1, proposal("v4"))
    assert refusal(made[1], proposal("v5")) is RefusalReason.CONFIG_PENDING
    made[1].apply()
    made[1].core.propose_config(proposal("v5"))


def test_a_new_leader_proposes_no_change_before_it_has_applied_all_it_found() -> None:
    subject = Replica(1, conf_of(1, 2, 3), disk=MemoryLog.of_terms(1), hard_state=HardState(Term(1)))
    lead(subject, 2)
    assert refusal(subject, proposal("v4")) is RefusalReason.CONFIG_PENDING
    subject.step(Peer(2).accepted(2, 2))
    subject.core.propose_config(proposal("v4"))


@pytest.mark.parametrize("steps", [(), ("r1", "r2", "r3")])
def test_a_change_that_does_not_fit_is_refused_before_it_is_in_the_log(steps: tuple[str, ...]) -> None:
    made = cluster()
    assert refusal(made[1], proposal(*steps)) is RefusalReason.CONFIG_DOES_NOT_FIT
    assert made[1].core.last_index == 1


def test_an_applied_change_that_does_not_fit_stops_the_group() -> None:
    with pytest.raises(InvariantError, match="does not fit"):
        cluster()[1].core.apply_config(ConfigProposal())


def test_a_broken_configuration_to_start_with_stops_the_group() -> None:
    with pytest.raises(InvariantError, match="broken"):
        Replica(1, ConfState(voters=(ReplicaId(1),), learners=(ReplicaId(1),)))


def test_a_joint_change_is_left_by_the_leader_when_it_is_applied() -> None:
    made = cluster(4)
    change(made, 1, proposal("r4", "l3"))
    for number in (1, 2, 3):
        assert made[number].core.conf == conf_of(1, 2, learners=(3,))
    assert made[1].core.last_index == 3


def test_an_explicit_joint_change_waits_to_be_left() -> None:
    made = cluster()
    change(made, 1, proposal("r3", transition=Transition.EXPLICIT))
    assert (made[1].core.conf.voters, made[1].core.conf.voters_outgoing) == ((1, 2), (1, 2, 3))
    assert refusal(made[1], proposal("v3")) is RefusalReason.CONFIG_DOES_NOT_FIT
    change(made, 1, ConfigProposal())
    assert made[1].core.conf == conf_of(1, 2)


def test_a_joint_decision_needs_both_majorities() -> None:
    """Thesis 4.3."""
    made = Cluster.of(5)
    made.elect(1)
    change(made, 1, proposal("r4", "r5", transition=Transition.EXPLICIT))
    commit = made[1].core.commit
    made.cut |= {(2, 1), (3, 1)}
    made[1].propose(b"a")
    made.settle()
    assert made[1].core.commit == commit
    made.heal()
    made.tick(2)
    assert made[1].core.commit == commit + 1
    made.cut |= {(3, 1), (4, 1), (5, 1)}
    made[1].propose(b"b")
    made.settle()
    assert made[1].core.commit == commit + 1


def test_a_new_leader_leaves_the_joint_state_that_the_old_one_entered() -> None:
    made = cluster(4)
    made[1].holds_applies = True
    change(made, 1, proposal("l4", transition=Transition.IMPLICIT))
    assert made[2].core.conf.auto_leave
    made.isolate(1)
    made[2].core.campaign(transfer=True)
    made.settle()
    assert made[2].core.is_leader
    assert made[2].core.conf == conf_of(1, 2, 3, learners=(4,))


def test_a_transfer_holds_up_leaving_the_joint_state_only_while_it_lasts() -> None:
    made = cluster(4)
    made.drop = lambda message: message.kind is MessageKind.TIMEOUT_NOW
    made[1].holds_applies = True
    change(made, 1, proposal("l4", transition=Transition.IMPLICIT))
    made[1].core.transfer_leadership(ReplicaId(3))
    made[1].apply()
    made.tick(9)
    assert made[1].core.conf.is_joint
    made[1].holds_applies = False
    made.tick(2)
    assert made[1].core.conf == conf_of(1, 2, 3, learners=(4,))


def test_a_removed_leader_steps_down_when_the_change_is_applied() -> None:
    """Thesis 4.2.2."""
    made = cluster()
    change(made, 1, proposal("r1"))
    assert (made[1].core.role, made[1].core.leader) == (Role.FOLLOWER, 0)
    assert made[2].core.conf == conf_of(2, 3)
    made[3].core.suspect(ReplicaId(1))
    made.elect(2)


def test_a_demoted_leader_steps_down() -> None:
    made = cluster()
    change(made, 1, proposal("l1"))
    assert made[1].core.role is Role.FOLLOWER
    assert not made[1].core.campaign()


def test_a_removed_leader_may_be_told_to_stay_but_takes_no_proposals() -> None:
    made = cluster(step_down_on_removal=False)
    change(made, 1, proposal("r1"))
    assert made[1].core.is_leader
    with pytest.raises(ProposalRefused) as caught:
        made[1].propose(b"a")
    assert caught.value.reason is RefusalReason.NOT_MEMBER


def test_a_new_member_is_probed_at_once() -> None:
    made = cluster()
    made[1].core.propose_config(proposal("v4"))
    made.settle()
    probes = [message for message in made.lost if message.to == 4]
    assert [message.kind for message in probes] == [MessageKind.APPEND]


def test_adding_a_member_does_not_cost_the_leader_its_majority() -> None:
    made = Cluster.of(1)
    made.elect(1)
    made[1].tick(8)
    change(made, 1, proposal("v2"))
    made[1].tick(5)
    assert made[1].core.is_leader


def test_removing_a_replica_commits_what_only_it_was_missing() -> None:
    made = Cluster.of(2)
    made.elect(1)
    made[1].holds_applies = True
    change(made, 1, proposal("r2"))
    made.cut.add((1, 2))
    made[1].propose(b"a")
    made.settle()
    assert made[1].core.commit == 2
    made[1].apply()
    assert made[1].core.commit == 3


def test_reads_that_wait_are_confirmed_when_the_leader_becomes_the_only_voter() -> None:
    made = Cluster.of(2)
    made.elect(1)
    made[1].holds_applies = True
    change(made, 1, proposal("r2"))
    made.cut.add((2, 1))
    made[1].core.read_index(9)
    made.settle()
    assert made[1].reads == []
    made[1].apply()
    made[1].settle()
    assert [read.context for read in made[1].reads] == [9]


def test_a_transfer_to_a_removed_replica_is_given_up() -> None:
    made = cluster()
    made[1].holds_applies = True
    change(made, 1, proposal("r3"))
    made.cut.add((1, 3))
    made[1].core.transfer_leadership(ReplicaId(3))
    made[1].apply()
    assert made[1].core.transfer_target == 0


def test_a_learner_is_sent_entries_but_not_counted() -> None:
    made = Cluster.of(2, learners=1)
    made.elect(1)
    made.cut.add((2, 1))
    made[1].propose(b"a")
    made.settle()
    assert (made[1].core.commit, made[3].core.last_index) == (1, 2)


def test_a_candidate_that_turns_out_to_be_no_voter_follows() -> None:
    subject = Replica(1, conf_of(1, 2, 3))
    subject.core.campaign()
    subject.core.apply_config(proposal("r1"))
    assert subject.core.role is Role.FOLLOWER


def test_a_replica_with_a_committed_change_to_apply_does_not_campaign() -> None:
    made = cluster()
    made[2].holds_applies = True
    change(made, 1, proposal("v4"))
    assert made[2].core.commit == 2
    assert not made[2].core.campaign()
    made[2].apply()
    assert made[2].core.campaign()


def test_a_change_in_the_log_proves_the_one_before_it_committed() -> None:
    """The commit index need not survive a crash, so it is read from the log before a campaign."""
    made = cluster()
    change(made, 1, proposal("v4"))
    change(made, 1, proposal("v5"))
    made[2].restart()
    assert (made[2].core.commit, made[2].core.conf) == (0, conf_of(1, 2, 3))
    assert not made[2].core.campaign()
    assert made[2].core.commit == 2
    made[2].settle()
    assert made[2].core.conf == conf_of(1, 2, 3, 4)
    assert made[2].core.campaign()


def test_the_log_is_read_in_pieces_when_changes_are_looked_for() -> None:
    made = cluster(max_message_bytes=100)
    change(made, 1, proposal("v4"))
    for payload in (b"a", b"b", b"c"):
        made[1].propose(payload)
    made.settle()
    change(made, 1, proposal("v5"))
    made[2].restart()
    assert not made[2].core.campaign()
    assert made[2].core.commit == Index(2)
