"""What a leader does: heartbeats, proposals, answers, reads, hand-over."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from logbroker.entry import Entry, EntryKind
from logbroker.errors import RemoteProtocolError, invariant, violated
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term
from logbroker.raft.config_change import ConfigChangeError, ConfigProposal, change_config
from logbroker.raft.messages import Message, MessageKind, ReadState, Role
from logbroker.raft.progress import Progress, ProgressState
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from logbroker.raft.replication import broadcast_append, broadcast_heartbeat, maybe_commit, send_append
from logbroker.raft.trace import TraceKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.raft.state import RaftState


def start(state: RaftState) -> None:
    """Begin to lead: append the empty entry whose commit settles everything before it (5.4.2, 8)."""
    state.become_leader()
    noop = state.make_entry(EntryKind.NOOP, state.leader_since, state.term, b"")
    _append(state, (noop,), noop.size_bytes)


def on_tick(state: RaftState) -> bool:
    if state.election_elapsed >= state.config.election_ticks:
        state.election_began = state.ticks.count
        if state.config.check_quorum and not _has_quorum(state):
            state.quorum_losses += 1
            heir = _most_caught_up(state) if state.config.names_heir else NO_REPLICA
            state.become_follower(state.term, NO_REPLICA)
            if heir != NO_REPLICA:
                _send_timeout_now(state, heir)
            return True
        if state.transfer_target != NO_REPLICA:
            # It did not take over in time; lead on (thesis 3.10).
            state.transfer_target = NO_REPLICA
            maybe_leave_joint(state)
    if state.ticks.count - state.heartbeat_began < state.config.heartbeat_ticks:
        return bool(state.messages or state.append_due)
    state.heartbeat_began = state.ticks.count
    if not state.config.packs_heartbeats or state.reads.newest:
        broadcast_heartbeat(state)
        return True
    state.beat_due = True
    return bool(state.messages or state.append_due)


def rest_ticks(state: RaftState) -> int:
    config = state.config
    if not config.packs_heartbeats or config.heartbeat_ticks != 1 or state.reads.newest:
        return 0
    if state.messages or state.append_due:
        return 0
    return max(0, config.election_ticks - state.election_elapsed - 1)


def take_beats(state: RaftState) -> list[tuple[ReplicaId, Index]]:
    """The heartbeats that are due: for each follower the commit index, never beyond what it acknowledged."""
    state.beat_due = False
    if state.role is not Role.LEADER:
        return []
    log_commit = state.log.commit
    beats = []
    for replica, progress in state.tracker.progress.items():
        if replica != state.replica:
            commit = min(progress.match, log_commit)
            beats.append((replica, commit))
            progress.sent_commit = commit
    return beats


def on_beat_answer(state: RaftState, sender: ReplicaId, term: Term) -> bool:
    """Take the answer to a packed heartbeat from a follower that lacks nothing; False where it is to be stepped."""
    if term != state.term or state.role is not Role.LEADER:
        return False
    progress = state.tracker.progress.get(sender)
    if progress is None or progress.match < state.log.last_index or progress.state is not ProgressState.REPLICATE:
        return False
    progress.recent_active = True
    progress.resume()
    return True


def _has_quorum(state: RaftState) -> bool:
    """Whether a majority was heard from since the last time this was asked."""
    tracker = state.tracker
    is_active = tracker.is_quorum_active()
    for replica, progress in tracker.progress.items():
        progress.recent_active = replica == state.replica
    return is_active


def _most_caught_up(state: RaftState) -> ReplicaId:
    """The voter with the longest log besides this one, the first of several; 0 if there is none."""
    others = [
        (-progress.match, replica)
        for replica, progress in state.tracker.progress.items()
        if replica != state.replica and not progress.is_learner
    ]
    return min(others)[1] if others else NO_REPLICA


# -- proposals


def propose(state: RaftState, entries: Sequence[Entry]) -> None:
    """Append entries that the driver made for exactly this place in the log.

    Raises:
        ProposalRefused: nothing was appended.
    """
    _require_open(state)
    due = state.log.last_index
    size = 0
    for entry in entries:
        due = Index(due + 1)
        if entry.index != due or entry.term != state.term or entry.kind is EntryKind.CONFIG:
            violated(
                f"proposed {entry.kind.name} entry ({entry.index}, term {entry.term}) where ({due}, term {state.term})"
                " and not CONFIG is due"
            )
        size += entry.size_bytes
    invariant(size > 0, "a proposal holds at least one entry")
    limit = state.config.max_uncommitted_bytes
    if state.uncommitted_bytes and state.uncommitted_bytes + size > limit:
        _refuse(
            state,
            RefusalReason.TOO_MUCH_UNCOMMITTED,
            f"{size} bytes on top of {state.uncommitted_bytes} not yet committed are more than {limit}",
        )
    _append(state, entries, size)


def propose_config(state: RaftState, proposal: ConfigProposal) -> None:
    """Append a change of configuration.

    Raises:
        ProposalRefused: one is under way, or the change does not fit the configuration in force.
    """
    _require_open(state)
    if state.pending_config_index > state.log.applied:
        _refuse(
            state,
            RefusalReason.CONFIG_PENDING,
            f"a change up to index {state.pending_config_index} may be under way; applied is {state.log.applied}",
        )
    try:
        change_config(state.tracker.conf, proposal)
    except ConfigChangeError as error:
        _refuse(state, RefusalReason.CONFIG_DOES_NOT_FIT, error.message, cause=error)
    _append_config(state, proposal)


def _append_config(state: RaftState, proposal: ConfigProposal) -> None:
    index = Index(state.log.last_index + 1)
    entry = state.make_entry(EntryKind.CONFIG, index, state.term, proposal.encode())
    state.pending_config_index = index
    _append(state, (entry,), entry.size_bytes)


def maybe_leave_joint(state: RaftState) -> None:
    """Propose to leave the joint state if that is due and nothing is in the way.

    Asked again with everything that is applied: a transfer may have been in the way, or a change of
    leader may have hidden that the joint state is applied.
    """
    if (
        state.role is Role.LEADER
        and state.tracker.conf.auto_leave
        and state.log.applied >= state.pending_config_index
        and state.transfer_target == NO_REPLICA
        and state.own_progress is not None
    ):
        _append_config(state, ConfigProposal())


def _require_open(state: RaftState) -> None:
    if state.role is not Role.LEADER:
        _refuse(state, RefusalReason.NOT_LEADER, f"replica {state.replica} is {state.role.name} in term {state.term}")
    if state.own_progress is None:
        _refuse(state, RefusalReason.NOT_MEMBER, f"replica {state.replica} was removed from the group")
    if state.transfer_target != NO_REPLICA:
        _refuse(state, RefusalReason.TRANSFER_IN_PROGRESS, f"leadership is going to {state.transfer_target}")


def _refuse(state: RaftState, reason: RefusalReason, message: str, *, cause: Exception | None = None) -> NoReturn:
    state.refused_proposals += 1
    raise ProposalRefused(reason, message) from cause


def _append(state: RaftState, entries: Sequence[Entry], size_bytes: int) -> None:
    state.log.append(entries)
    state.uncommitted.append((state.log.last_index, size_bytes))
    state.uncommitted_bytes += size_bytes
    state.trace(TraceKind.REPLICATED)
    _tell_followers(state)


def _tell_followers(state: RaftState) -> None:
    if state.config.gather_appends:
        state.append_due = True
    else:
        broadcast_append(state)


def tell_gathered(state: RaftState) -> None:
    """Send what has gathered since the last Ready."""
    state.append_due = False
    if state.role is Role.LEADER:
        broadcast_append(state, even_if_empty=not state.config.lazy_commit)


# -- answers


def on_durable(state: RaftState, index: Index) -> None:
    """The own disk has everything up to `index`: count it like a follower's acknowledgement."""
    own = state.own_progress
    if own is not None and own.on_accepted(index) and maybe_commit(state):
        _tell_followers(state)


def on_append_response(state: RaftState, message: Message) -> None:
    progress = state.tracker.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    if message.reject:
        _on_rejected(state, message, progress)
        return
    index = message.index
    if index > state.log.last_index:
        raise RemoteProtocolError(
            f"replica {message.sender} acknowledges {index}, beyond the last index {state.log.last_index}"
        )
    was_probe = progress.state is ProgressState.PROBE
    if not progress.on_accepted(index) and not (was_probe and progress.match == index):
        return
    if was_probe:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.inflights.free_through(index)
    elif progress.match + 1 >= state.log.first_index:
        # However the follower got here, what it needs next is in the log: no snapshot is needed any more.
        progress.become_replicate()
    # Only a replica that moves beyond the commit index can move it.
    if index > state.log.commit and maybe_commit(state):
        _tell_followers(state)
    elif not state.config.lazy_commit and progress.can_bump_commit(state.log.commit):
        send_append(state, message.sender, progress, even_if_empty=True)
    while send_append(state, message.sender, progress, even_if_empty=False):
        pass
    if message.sender == state.transfer_target and progress.match == state.log.last_index:
        _send_timeout_now(state, message.sender)


def _on_rejected(state: RaftState, message: Message, progress: Progress) -> None:
    state.rejections += 1
    hint = message.reject_hint
    if message.log_term > 0:
        # The follower's term at the hint is known: every place where this log has a larger one cannot
        # match and is skipped, so that a long divergence costs one round trip a term, not an entry.
        hint, _ = state.log.find_conflict_by_term(hint, message.log_term)
    if progress.on_rejected(message.index, hint):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(state, message.sender, progress, even_if_empty=True)


def on_heartbeat_response(state: RaftState, message: Message) -> None:
    progress = state.tracker.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    progress.resume()
    # Whatever was lost on the way is found out by this append: into a full window it is empty, and its
    # rejection shows the gap.
    if progress.match < state.log.last_index or progress.state is ProgressState.PROBE:
        send_append(state, message.sender, progress, even_if_empty=True)
    if message.context:
        state.reads.on_echo(message.sender, message.context)
        state.read_states.extend(state.reads.take_confirmed(state.tracker.conf))


def on_rival(state: RaftState, message: Message) -> None:
    violated(f"term {state.term} has two leaders: {state.replica} and {message.sender}")


def report_unreachable(state: RaftState, replica: ReplicaId) -> None:
    """A message to `replica` was lost for certain; what followed it was sent in vain."""
    progress = state.tracker.progress.get(replica)
    if (
        state.role is Role.LEADER
        and replica != state.replica
        and progress is not None
        and progress.state is ProgressState.REPLICATE
    ):
        progress.become_probe()


def report_snapshot(state: RaftState, replica: ReplicaId, *, ok: bool) -> None:
    """The driver finished sending a snapshot, or gave up. The next append waits for a sign of life."""
    progress = state.tracker.progress.get(replica)
    if state.role is not Role.LEADER or progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    if not ok:
        progress.pending_snapshot = Index(0)
    progress.become_probe()
    progress.is_paused = True


# -- reads and hand-over


def read_index(state: RaftState, context: int) -> None:
    """Ask for the index that a linearizable read must wait for; it comes as a ReadState.

    Raises:
        ProposalRefused: not the leader, or one that cannot know yet what its predecessors committed.
    """
    if state.role is not Role.LEADER:
        _refuse(state, RefusalReason.NOT_LEADER, f"replica {state.replica} is {state.role.name} in term {state.term}")
    if state.log.commit < state.leader_since:
        _refuse(
            state,
            RefusalReason.NO_COMMIT_IN_TERM,
            f"commit index {state.log.commit} is below {state.leader_since}, the first of term {state.term}",
        )
    if len(state.reads) >= state.config.max_pending_reads:
        _refuse(state, RefusalReason.TOO_MANY_READS, f"{len(state.reads)} reads wait for confirmation")
    read = ReadState(context, state.log.commit)
    if state.tracker.is_singleton and state.tracker.is_voter(state.replica):
        state.read_states.append(read)
        return
    state.reads.add(read)
    state.reads.on_echo(state.replica, state.reads.newest)
    broadcast_heartbeat(state)


def transfer(state: RaftState, target: ReplicaId) -> None:
    """Hand leadership to `target`: no proposals, catch it up, then let it campaign at once (thesis 3.10).

    A transfer to the leader itself calls off the one under way.

    Raises:
        ProposalRefused: not the leader, or `target` is no voter.
    """
    if state.role is not Role.LEADER:
        _refuse(state, RefusalReason.NOT_LEADER, f"replica {state.replica} is {state.role.name} in term {state.term}")
    progress = state.tracker.progress.get(target)
    if progress is None or progress.is_learner:
        _refuse(state, RefusalReason.NO_SUCH_VOTER, f"replica {target} is no voter of {state.tracker.conf}")
    if target == state.transfer_target:
        return
    if target == state.replica:
        state.transfer_target = NO_REPLICA
        return
    state.transfer_target = target
    # It has one election timeout from here on.
    state.election_began = state.ticks.count
    if progress.match == state.log.last_index:
        _send_timeout_now(state, target)
    else:
        send_append(state, target, progress, even_if_empty=True)


def _send_timeout_now(state: RaftState, target: ReplicaId) -> None:
    state.send(Message(MessageKind.TIMEOUT_NOW, target, state.replica, state.term))
