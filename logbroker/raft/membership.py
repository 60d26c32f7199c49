"""When a change of configuration takes effect, and what the leader does then (thesis 4; etcd's rule).

A configuration is in force when its entry is *applied*, not when it is appended. That is safe because
only one change is under way at a time, a leader proposes none before it has applied everything that it
found in its log, and a replica with a committed, unapplied change does not campaign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import violated
from logbroker.ids import NO_REPLICA
from logbroker.raft.config_change import ConfigChangeError, ConfigProposal, change_config
from logbroker.raft.messages import ConfState, Role
from logbroker.raft.replication import broadcast_append, maybe_commit
from logbroker.raft.trace import TraceKind

if TYPE_CHECKING:
    from logbroker.raft.state import RaftState


def apply_change(state: RaftState, proposal: ConfigProposal) -> ConfState:
    """Put an applied change into force."""
    try:
        conf = change_config(state.tracker.conf, proposal)
    except ConfigChangeError as error:
        # It was tried against the very same configuration before it was proposed.
        violated(f"applied change {proposal} does not fit {state.tracker.conf}: {error.message}")
    state.tracker.switch(conf, last_index=state.log.last_index)
    state.trace(TraceKind.CONFIG_APPLIED)
    if state.role is Role.LEADER:
        _continue_as_leader(state)
    elif state.role is not Role.FOLLOWER and not state.tracker.is_voter(state.replica):
        state.become_follower(state.term, NO_REPLICA)
    return conf


def install(state: RaftState, conf: ConfState) -> None:
    """Put the configuration of a snapshot, or of the start, into force."""
    state.tracker.progress = {}
    try:
        state.tracker.switch(conf, last_index=state.log.last_index)
    except ConfigChangeError as error:
        violated(f"configuration to install is broken: {error.message}")


def _continue_as_leader(state: RaftState) -> None:
    own = state.own_progress
    if own is None or own.is_learner:
        if state.config.step_down_on_removal:
            state.become_follower(state.term, NO_REPLICA)
        return
    if not state.tracker.is_voter(state.transfer_target):
        state.transfer_target = NO_REPLICA
    if maybe_commit(state):
        # The new majority is smaller, or reached by others: more is committed now.
        broadcast_append(state)
    else:
        # Whoever is new need not wait for a heartbeat.
        broadcast_append(state, even_if_empty=False)
    state.read_states.extend(state.reads.take_confirmed(state.tracker.conf))
