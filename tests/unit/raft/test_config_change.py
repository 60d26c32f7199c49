from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbroker.errors import CorruptBatchError
from logbroker.ids import ReplicaId
from logbroker.raft.config_change import (
    ChangeKind,
    ConfigChange,
    ConfigChangeError,
    ConfigFault,
    ConfigProposal,
    Transition,
    change_config,
    check_config,
)
from logbroker.raft.messages import MAX_MEMBERS, ConfState
from tests.raft_kit import conf_of

if TYPE_CHECKING:
    from collections.abc import Sequence

changes = st.builds(ConfigChange, st.sampled_from(ChangeKind), st.integers(0, 6).map(ReplicaId))
proposals = st.builds(
    ConfigProposal, st.lists(changes, max_size=4).map(tuple), st.sampled_from(Transition), st.binary()
)


def change(kind: ChangeKind, replica: int) -> ConfigChange:
    return ConfigChange(kind, ReplicaId(replica))


@given(proposals)
def test_a_proposal_survives_its_byte_form(proposal: ConfigProposal) -> None:
    assert ConfigProposal.decode(proposal.encode()) == proposal


@given(st.binary(max_size=40))
def test_any_bytes_are_a_proposal_or_corrupt(data: bytes) -> None:
    with contextlib.suppress(CorruptBatchError):
        assert ConfigProposal.decode(data).encode() == data


@pytest.mark.parametrize(
    "data",
    [b"", b"\x02\x00\x00\x00", b"\x01\x00\x00\x01", b"\x01\x07\x00\x00", b"\x01\x00\x00\x01\x09" + bytes(8)],
)
def test_a_broken_proposal_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptBatchError):
        ConfigProposal.decode(data)


def test_the_byte_form_of_a_proposal_is_fixed() -> None:
    proposal = ConfigProposal((change(ChangeKind.ADD_LEARNER, 7),), Transition.EXPLICIT, b"who")
    assert proposal.encode() == b"\x01\x02\x00\x01" + b"\x02" + b"\x00" * 7 + b"\x07" + b"who"


@given(st.lists(proposals, max_size=12))
def test_whatever_is_proposed_keeps_the_rules_of_configurations(history: Sequence[ConfigProposal]) -> None:
    """Thesis 4.3: of two configurations in a row, any majority of one meets any majority of the other."""
    conf = conf_of(1, 2, 3)
    for proposal in history:
        try:
            after = change_config(conf, proposal)
        except ConfigChangeError:
            continue
        check_config(after)
        assert after.voters
        assert ConfState.decode(after.encode()) == after
        if not conf.is_joint and not after.is_joint:
            assert len(set(conf.voters) ^ set(after.voters)) <= 1
        elif after.is_joint:
            assert after.voters_outgoing == conf.voters
        else:
            assert after.voters == conf.voters
        conf = after


def test_one_change_is_simple_and_two_are_joint() -> None:
    one = ConfigProposal((change(ChangeKind.ADD_VOTER, 4),))
    two = ConfigProposal((change(ChangeKind.ADD_VOTER, 4), change(ChangeKind.REMOVE, 1)))
    assert change_config(conf_of(1, 2, 3), one) == conf_of(1, 2, 3, 4)
    joint = change_config(conf_of(1, 2, 3), two)
    assert (joint.voters, joint.voters_outgoing, joint.auto_leave) == ((2, 3, 4), (1, 2, 3), True)
    assert change_config(joint, ConfigProposal()) == conf_of(2, 3, 4)


def test_a_demoted_voter_becomes_a_learner_when_the_joint_state_is_left() -> None:
    proposal = ConfigProposal((change(ChangeKind.ADD_LEARNER, 3),), Transition.EXPLICIT)
    joint = change_config(conf_of(1, 2, 3), proposal)
    assert (joint.learners, joint.learners_next, joint.auto_leave) == ((), (3,), False)
    assert change_config(joint, ConfigProposal()) == conf_of(1, 2, learners=(3,))


@pytest.mark.parametrize(
    "conf",
    [
        ConfState(voters=(ReplicaId(1),), learners=(ReplicaId(1),)),
        ConfState(voters=(ReplicaId(1),), learners_next=(ReplicaId(2),)),
        ConfState(voters=(ReplicaId(1),), voters_outgoing=(ReplicaId(1), ReplicaId(2)), learners_next=(ReplicaId(1),)),
        ConfState(voters=(ReplicaId(1),), auto_leave=True),
    ],
)
def test_a_configuration_that_breaks_a_rule_is_refused(conf: ConfState) -> None:
    with pytest.raises(ConfigChangeError) as caught:
        check_config(conf)
    assert caught.value.fault is ConfigFault.INCONSISTENT


def test_more_members_than_can_be_encoded_are_refused() -> None:
    full = conf_of(*range(1, MAX_MEMBERS + 1))
    with pytest.raises(ConfigChangeError) as caught:
        change_config(full, ConfigProposal((change(ChangeKind.ADD_LEARNER, 999),)))
    assert caught.value.fault is ConfigFault.TOO_MANY_MEMBERS
