"""Campaigns and votes (Raft 5.2, 5.4.1; thesis 4.2.3 and 9.6)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.ids import NO_REPLICA, Index, Term
from logbroker.raft.messages import Message, MessageKind, Role
from logbroker.raft.trace import TraceKind

if TYPE_CHECKING:
    from logbroker.raft.state import RaftState

_LEADER_KINDS = frozenset({MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT})
VOTE_KINDS = frozenset(
    {MessageKind.VOTE, MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE}
)


@final
class Campaign(Enum):
    PRE_VOTE = 1
    ELECTION = 2
    TRANSFER = 3
    """An election that the leader asked for: its lease binds nobody and no pre-vote is needed."""


def campaign(state: RaftState, kind: Campaign) -> bool:
    """Start a campaign if this replica may lead; True if it did."""
    if state.role is Role.LEADER or _has_unapplied_config(state) or not state.is_promotable:
        return False
    ask_for_votes(state, kind)
    return True


def on_election_timeout(state: RaftState) -> None:
    """Nobody was heard for too long: campaign, or at least be open to others who do."""
    state.election_began = state.ticks.count
    if not regular_campaign(state):
        # The timer starts over, the lease of a silent leader must not.
        state.suspected = state.leader


def regular_campaign(state: RaftState) -> bool:
    return campaign(state, Campaign.PRE_VOTE if state.config.pre_vote else Campaign.ELECTION)


def _has_unapplied_config(state: RaftState) -> bool:
    """Whether a committed change of configuration waits to be applied here.

    Its majorities may differ by more than one step from those this replica would count, so it must
    not campaign. The commit index need not survive a crash, but what it must be at least can be read
    from the log: a change is proposed only after the one before is applied, so a change in the log
    proves every earlier one committed. (This is looked for even by a replica that may not campaign: the
    change may be the one that lets it.)
    """
    log = state.log
    if log.has_pending_snapshot:
        return True
    changes: list[Index] = []
    start = Index(log.applied + 1)
    while start <= log.last_index:
        for entry in log.tail(start, max_bytes=state.config.max_message_bytes):
            if entry.kind is EntryKind.CONFIG:
                changes.append(entry.index)
            start = Index(entry.index + 1)
    if len(changes) > 1:
        log.commit_to(changes[-2])
    return bool(changes) and changes[0] <= log.commit


def ask_for_votes(state: RaftState, kind: Campaign) -> None:
    """Enter the role that `kind` needs, vote for oneself, and ask every other voter."""
    if kind is Campaign.PRE_VOTE:
        state.become_pre_candidate()
        term = Term(state.term + 1)
        request, response = MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE
    else:
        state.become_candidate()
        term = state.term
        request, response = MessageKind.VOTE, MessageKind.VOTE_RESPONSE
    log = state.log
    commit_term = log.term(log.commit)
    for voter in state.tracker.voters():
        if voter == state.replica:
            # Counted like any other vote, and like any other only once it is durable.
            state.send(Message(response, voter, state.replica, term))
        else:
            state.send(
                Message(
                    request,
                    voter,
                    state.replica,
                    term,
                    log_term=log.last_term,
                    index=log.last_index,
                    commit=log.commit,
                    context=commit_term,
                    campaign_transfer=kind is Campaign.TRANSFER,
                )
            )


def on_vote_request(state: RaftState, message: Message) -> None:
    """Answer VOTE and PRE_VOTE, in any role. The term of `message` is not below the own one.

    A learner answers too: whoever asks counts it as a voter, and may know a newer configuration.
    """
    is_pre_vote = message.kind is MessageKind.PRE_VOTE
    is_free = (
        state.vote == message.sender
        or (state.vote == NO_REPLICA and state.leader == NO_REPLICA)
        or (is_pre_vote and message.term > state.term)
    )
    granted = is_free and state.log.is_up_to_date(message.index, message.log_term)
    response = MessageKind.PRE_VOTE_RESPONSE if is_pre_vote else MessageKind.VOTE_RESPONSE
    # A grant names the term asked for, which for a pre-vote is still to come; a refusal names the own,
    # so that a candidate behind it learns of it.
    term = message.term if granted else state.term
    _answer(state, message, response, term, reject=not granted)
    if granted and not is_pre_vote:
        state.election_began = state.ticks.count
        state.vote = message.sender


def _answer(state: RaftState, request: Message, kind: MessageKind, term: Term, *, reject: bool) -> None:
    log = state.log
    state.send(
        Message(
            kind,
            request.sender,
            state.replica,
            term,
            commit=log.commit,
            reject=reject,
            context=log.term(log.commit),
        )
    )


def learn_commit(state: RaftState, message: Message) -> None:
    """Take over what the sender of a vote request or answer knows to be committed.

    Without it a group can be stuck for ever: a replica that lost its commit index in a crash does not
    know that a change of configuration in its log is in force, campaigns by the old one, and is refused
    by a replica that has a longer log but, by the new one, may not campaign itself.
    """
    log = state.log
    if state.role is Role.LEADER or not log.matches(message.commit, Term(message.context)):
        return
    if log.commit_to(message.commit):
        state.trace(TraceKind.COMMITTED)
        if state.role is not Role.FOLLOWER and _has_unapplied_config(state):
            # The campaign counts majorities that are out of date; there will be another.
            state.become_follower(state.term, NO_REPLICA)


def admit_newer_term(state: RaftState, message: Message) -> bool:
    """Handle the term of a message that is ahead of the own; False if the message goes no further."""
    kind = message.kind
    is_request = kind is MessageKind.VOTE or kind is MessageKind.PRE_VOTE
    if is_request and state.is_in_lease and not message.campaign_transfer:
        # A replica that was cut off, or removed, would otherwise depose a leader that serves well.
        return False
    if kind is MessageKind.PRE_VOTE or (kind is MessageKind.PRE_VOTE_RESPONSE and not message.reject):
        # These speak of a term that nobody is in yet.
        return True
    state.become_follower(message.term, message.sender if kind in _LEADER_KINDS else NO_REPLICA)
    return True


def answer_older_term(state: RaftState, message: Message) -> None:
    """Answer a message whose term is over, where silence would leave its sender stuck in that term."""
    if message.kind in (MessageKind.APPEND, MessageKind.HEARTBEAT):
        # Its sender leads a term that is over. It has to hear of it from us, since with leases in force
        # our vote requests may not reach it.
        if state.config.check_quorum or state.config.pre_vote:
            state.send(Message(MessageKind.APPEND_RESPONSE, message.sender, state.replica, state.term))
    elif message.kind is MessageKind.PRE_VOTE:
        _answer(state, message, MessageKind.PRE_VOTE_RESPONSE, state.term, reject=True)
