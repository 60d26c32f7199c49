"""What a follower does with its leader's messages (Raft 5.3, 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import RemoteProtocolError, invariant
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term
from logbroker.raft.election import Campaign, campaign
from logbroker.raft.messages import Message, MessageKind, Role, SnapshotMeta
from logbroker.raft.trace import TraceKind

if TYPE_CHECKING:
    from logbroker.raft.state import RaftState


def check_entries(message: Message) -> None:
    """Refuse entries that are not dense, or whose terms could not stand in one log.

    Raises:
        RemoteProtocolError: before anything has changed.
    """
    index, term = message.index, message.log_term
    for entry in message.entries:
        index = Index(index + 1)
        if entry.index != index or not term <= entry.term <= message.term:
            raise RemoteProtocolError(
                f"append of term {message.term} from {message.sender} has entry ({entry.index}, term {entry.term})"
                f" where index {index} and a term from {term} on is due"
            )
        term = entry.term


def _hear_leader(state: RaftState, message: Message) -> None:
    if state.leader != message.sender:
        invariant(
            state.leader == NO_REPLICA,
            f"term {state.term} has two leaders: {state.leader} and {message.sender}",
        )
        state.leader = message.sender
    state.suspected = NO_REPLICA
    state.election_began = state.ticks.count


def on_append(state: RaftState, message: Message) -> None:
    _hear_leader(state, message)
    log = state.log
    if message.index < log.commit:
        # Late, or sent before the leader knew how far this log is committed: tell it.
        _acknowledge(state, message, log.commit)
        return
    if log.try_append(message.index, message.log_term, message.entries):
        last = Index(message.index + len(message.entries))
        # What lies behind `last` was not compared, so it may be another leader's.
        _commit(state, min(message.commit, last))
        _acknowledge(state, message, last)
        return
    hint, hint_term = log.find_conflict_by_term(min(message.index, log.last_index), message.log_term)
    state.send(
        Message(
            MessageKind.APPEND_RESPONSE,
            message.sender,
            state.replica,
            state.term,
            log_term=hint_term,
            index=message.index,
            reject=True,
            reject_hint=hint,
        )
    )


def _commit(state: RaftState, index: Index) -> None:
    if state.log.commit_to(index):
        state.trace(TraceKind.COMMITTED)


def _acknowledge(state: RaftState, message: Message, index: Index) -> None:
    state.send(Message(MessageKind.APPEND_RESPONSE, message.sender, state.replica, state.term, index=index))


def on_heartbeat(state: RaftState, message: Message) -> None:
    _hear_leader(state, message)
    _commit(state, message.commit)
    state.send(
        Message(MessageKind.HEARTBEAT_RESPONSE, message.sender, state.replica, state.term, context=message.context)
    )


def on_beat(state: RaftState, sender: ReplicaId, term: Term, commit: Index) -> bool:
    """Take a packed heartbeat that brings nothing new; False where it is to be stepped as a message."""
    if term != state.term or state.role is not Role.FOLLOWER or state.leader != sender or commit > state.log.commit:
        return False
    state.suspected = NO_REPLICA
    state.election_began = state.ticks.count
    return True


def on_snapshot(state: RaftState, message: Message) -> None:
    """Take a snapshot whose data the driver holds beside the log, if it leads further than the log."""
    snapshot = message.snapshot
    if snapshot is None:
        raise RemoteProtocolError(f"snapshot message of term {message.term} from {message.sender} has no snapshot")
    _hear_leader(state, message)
    taken = _restore(state, snapshot)
    _acknowledge(state, message, state.log.last_index if taken else state.log.commit)


def _restore(state: RaftState, snapshot: SnapshotMeta) -> bool:
    log = state.log
    if snapshot.index <= log.commit:
        return False
    if log.matches(snapshot.index, snapshot.term):
        # The log has it all; replacing it would throw away entries that were acknowledged.
        _commit(state, snapshot.index)
        return False
    # Its configuration comes into force with its state, when it is durable: entries handed out before may
    # still be applied until then. It need not name this replica: the entry that adds it may come later.
    log.restore(snapshot)
    state.trace(TraceKind.RESTORED)
    return True


def on_timeout_now(state: RaftState, message: Message) -> None:
    campaign(state, Campaign.TRANSFER)
