"""How a leader sends entries and decides what is committed (Raft 5.3, 5.4.2; thesis 10.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import invariant
from logbroker.ids import Index, ReplicaId
from logbroker.raft.log import CompactedError, UnavailableEntryError
from logbroker.raft.messages import Message, MessageKind
from logbroker.raft.progress import Progress, ProgressState
from logbroker.raft.trace import TraceKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.entry import Entry
    from logbroker.raft.state import RaftState


def send_append(state: RaftState, to: ReplicaId, progress: Progress, *, even_if_empty: bool) -> bool:
    """Send the next entries to one follower, or a snapshot if they are gone; True if a message went out.

    An empty append is worth sending when it may tell a new commit index, or to probe.
    """
    log = state.log
    if progress.is_paused or (progress.next > log.last_index and not even_if_empty):
        return False
    previous = Index(progress.next - 1)
    entries: Sequence[Entry] = ()
    try:
        previous_term = log.term(previous)
        # Into a full window only an empty append goes: its answer shows whether the window was lost.
        if progress.state is not ProgressState.REPLICATE or not progress.inflights.is_full:
            entries = log.tail(progress.next, max_bytes=state.config.max_message_bytes)
    except CompactedError:
        return _send_snapshot(state, to, progress)
    except UnavailableEntryError:
        # Storage has lost the next entry for now. The other followers get theirs; this one when it is mended.
        return False
    if not entries and not even_if_empty:
        return False
    commit = log.commit
    state.send(
        Message(
            MessageKind.APPEND,
            to,
            state.replica,
            state.term,
            log_term=previous_term,
            index=previous,
            commit=commit,
            entries=entries,
        )
    )
    size = 0
    for entry in entries:
        size += entry.size_bytes
    progress.on_sent(len(entries), size)
    progress.sent_commit = commit
    return True


def _send_snapshot(state: RaftState, to: ReplicaId, progress: Progress) -> bool:
    if not progress.recent_active:
        # Nobody is there to take it; the first heartbeat response will ask again.
        return False
    snapshot = state.log.snapshot_meta()
    if not snapshot.index:
        return False
    invariant(
        snapshot.index <= state.log.commit,
        f"snapshot {snapshot.index} holds more than is committed: {state.log.commit}",
    )
    progress.become_snapshot(snapshot.index)
    state.snapshots_sent += 1
    state.send(Message(MessageKind.SNAPSHOT, to, state.replica, state.term, snapshot=snapshot))
    return True


def broadcast_append(state: RaftState, *, even_if_empty: bool = True) -> None:
    for replica, progress in state.tracker.progress.items():
        if replica != state.replica:
            send_append(state, replica, progress, even_if_empty=even_if_empty)


def broadcast_heartbeat(state: RaftState) -> None:
    """Tell every follower that this is the leader. It carries the newest read that waits."""
    context = state.reads.newest
    log_commit = state.log.commit
    for replica, progress in state.tracker.progress.items():
        if replica != state.replica:
            # Never beyond what this follower acknowledged: it could not tell that its entries are others.
            commit = min(progress.match, log_commit)
            state.send(
                Message(MessageKind.HEARTBEAT, replica, state.replica, state.term, commit=commit, context=context)
            )
            progress.sent_commit = commit


def maybe_commit(state: RaftState) -> bool:
    """Commit what a majority has made durable, if it is of the own term; True if the commit index moved.

    Entries of older terms are never counted; they are committed by the first of the own term after
    them (5.4.2, figure 8).
    """
    index = state.tracker.committed_index()
    if index < state.leader_since or not state.log.commit_to(index):
        return False
    uncommitted = state.uncommitted
    while uncommitted and uncommitted[0][0] <= index:
        state.uncommitted_bytes -= uncommitted.popleft()[1]
    state.trace(TraceKind.COMMITTED)
    return True
