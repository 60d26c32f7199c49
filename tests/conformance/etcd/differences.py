"""Where our core differs from etcd's on purpose, as things that a run can be seen to do.

The cluster notes each one that happens. A script that differs names those that happened before the difference;
if none did, the difference is not meant.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, final

from logbroker.raft.election import VOTE_KINDS
from logbroker.raft.messages import MessageKind, Role
from logbroker.raft.quorum import VoteResult, joint_vote_result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logbroker.raft.core import RaftCore
    from logbroker.raft.messages import Message


@final
class Deviation(Enum):
    OWN_VOTE = "a candidate with a majority waits until its own vote is durable"
    VOTE_COMMIT = "vote messages carry the commit index"
    CONFIG_COMMIT = "two changes of configuration in a log prove the first committed"
    WRITE_BY_INDEX = "a write is acknowledged across a change of term"
    SNAPSHOT_RECEIVER = "a snapshot is taken that does not name its receiver"
    CHANGE_REFUSED = "a change of configuration that does not fit is refused, and an empty entry proposed for it"
    SILENT_LEADER = "a replica that may not campaign lets go of a silent leader"


_VOTES = frozenset({MessageKind.VOTE, MessageKind.VOTE_RESPONSE, MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE})


def seen_in_step(core: RaftCore, message: Message, *, commit_before: int) -> Iterable[Deviation]:
    """What stepping `message`, right before this call, showed."""
    if message.kind in VOTE_KINDS and core.commit > commit_before:
        yield Deviation.VOTE_COMMIT
    if message.kind is MessageKind.TIMEOUT_NOW and core.commit > commit_before:
        yield Deviation.CONFIG_COMMIT
    if core.role in (Role.CANDIDATE, Role.PRE_CANDIDATE):
        votes = core._state.tracker.votes
        if core.replica not in votes:
            conf = core.conf
            if joint_vote_result(conf.voters, conf.voters_outgoing, votes) is VoteResult.WON:
                yield Deviation.OWN_VOTE
    snapshot = message.snapshot
    if snapshot is not None and core.commit > commit_before and core.replica not in snapshot.conf.members():
        yield Deviation.SNAPSHOT_RECEIVER


def explain(seen: Iterable[Deviation]) -> str:
    texts = [deviation.value for deviation in Deviation if deviation in set(seen)]
    return f"on purpose: {', '.join(texts)}" if texts else "not on purpose"
