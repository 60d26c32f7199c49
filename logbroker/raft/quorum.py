"""Majorities, plain and joint: what is committed and who won. Pure arithmetic (Raft 5.3, 5.2; thesis 4.3).

A joint decision needs a majority of the incoming *and* of the outgoing voters. An empty half decides
nothing, which is why it commits everything and wins every vote.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Final, final

from logbroker.ids import Index, ReplicaId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EVERYTHING: Final = Index(sys.maxsize)
"""What the empty majority has committed."""


@final
class VoteResult(IntEnum):
    PENDING = 1
    LOST = 2
    WON = 3


def majority_index(acknowledged: list[Index]) -> Index:
    """Largest index that a majority has reached; one element a voter, 0 where nothing is known."""
    count = len(acknowledged)
    if not count:
        return EVERYTHING
    return sorted(acknowledged)[count - (count // 2 + 1)]


def joint_index(incoming: list[Index], outgoing: list[Index]) -> Index:
    return min(majority_index(incoming), majority_index(outgoing))


def vote_result(voters: Iterable[ReplicaId], votes: Mapping[ReplicaId, bool]) -> VoteResult:
    """The result among `voters`; whoever is missing in `votes` has not answered."""
    granted = open_count = count = 0
    for voter in voters:
        count += 1
        vote = votes.get(voter)
        if vote is None:
            open_count += 1
        elif vote:
            granted += 1
    needed = count // 2 + 1
    if not count or granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + open_count >= needed else VoteResult.LOST


def joint_vote_result(
    incoming: Iterable[ReplicaId], outgoing: Iterable[ReplicaId], votes: Mapping[ReplicaId, bool]
) -> VoteResult:
    first = vote_result(incoming, votes)
    second = vote_result(outgoing, votes)
    if first == second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING
