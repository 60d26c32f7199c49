"""What a candidate, or one that asks before it becomes one, does with answers (Raft 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import NO_REPLICA
from logbroker.raft import leader
from logbroker.raft.election import Campaign, ask_for_votes
from logbroker.raft.messages import Message, Role
from logbroker.raft.quorum import VoteResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.raft.state import RaftState


def on_vote_response(state: RaftState, message: Message) -> None:
    """Count an answer to the request that this role sent."""
    result = state.tracker.record_vote(message.sender, granted=not message.reject)
    if result is VoteResult.LOST:
        # The own term, not the message's: a pre-vote speaks of one that has not begun.
        state.become_follower(state.term, NO_REPLICA)
    # The own vote has to be among them, which is to say: durable. A leader that forgets its term in a
    # crash could be elected to it again, by the same votes, and put other entries into the same places.
    elif result is VoteResult.WON and state.replica in state.tracker.votes:
        if state.role is Role.PRE_CANDIDATE:
            ask_for_votes(state, Campaign.ELECTION)
        else:
            leader.start(state)


def following(handler: Callable[[RaftState, Message], None]) -> Callable[[RaftState, Message], None]:
    """The candidate's way to take a leader's message: somebody leads this term, so become its follower."""

    def follow(state: RaftState, message: Message) -> None:
        state.become_follower(message.term, message.sender)
        handler(state, message)

    return follow
