"""Our values in the words of etcd-io/raft, so that both sides of a comparison go through one reader.

Here alone stands which of our names is which of theirs:

- The empty entry of a new leader and a proposal are both `EntryNormal`; every CONFIG entry is `EntryConfChangeV2`.
- Vote requests and answers are shown without the commit index that ours carry.
- Messages of a replica to itself, and to and from the threads of storage and of the state machine, have no
  counterpart: our driver gives tokens back instead. `facts` drops them on the other side.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from logbroker.entry import EntryKind
from logbroker.raft.config_change import ChangeKind, ConfigProposal
from logbroker.raft.election import VOTE_KINDS
from logbroker.raft.messages import MessageKind, Role
from tests.conformance.etcd.confchange import STATE_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from logbroker.entry import Entry
    from logbroker.ids import ReplicaId
    from logbroker.raft.core import ProgressStatus
    from logbroker.raft.messages import ConfState, Message, SnapshotMeta

KIND_TEXT: Final = {
    MessageKind.APPEND: "MsgApp",
    MessageKind.APPEND_RESPONSE: "MsgAppResp",
    MessageKind.VOTE: "MsgVote",
    MessageKind.VOTE_RESPONSE: "MsgVoteResp",
    MessageKind.PRE_VOTE: "MsgPreVote",
    MessageKind.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageKind.HEARTBEAT: "MsgHeartbeat",
    MessageKind.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageKind.SNAPSHOT: "MsgSnap",
    MessageKind.TIMEOUT_NOW: "MsgTimeoutNow",
}
ROLE_TEXT: Final = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
_CHANGE_TEXT: Final = {ChangeKind.ADD_VOTER: "v", ChangeKind.ADD_LEARNER: "l", ChangeKind.REMOVE: "r"}


def describe_message(message: Message) -> str:
    text = (
        f"{message.sender:x}->{message.to:x} {KIND_TEXT[message.kind]}"
        f" Term:{message.term} Log:{message.log_term}/{message.index}"
    )
    if message.reject:
        text += f" Rejected (Hint: {message.reject_hint})"
    if message.commit and message.kind not in VOTE_KINDS:
        text += f" Commit:{message.commit}"
    if message.entries:
        text += f" Entries:[{', '.join(map(describe_entry, message.entries))}]"
    if message.snapshot is not None:
        text += f" Snapshot: {describe_snapshot(message.snapshot)}"
    return text


def describe_entry(entry: Entry) -> str:
    is_change = entry.kind is EntryKind.CONFIG
    content = ConfigProposal.decode(entry.payload) if is_change else entry.payload
    return f"{entry.term}/{entry.index} {describe_proposed(content)}"


def describe_proposed(content: bytes | ConfigProposal) -> str:
    if isinstance(content, bytes):
        # Go's %q and JSON quote alike what a script can hold.
        return f"EntryNormal {json.dumps(content.decode(), ensure_ascii=False)}"
    # A change that concerns no member stands for an update of something outside of Raft.
    changes = [f"{_CHANGE_TEXT[change.kind]}{change.replica}" for change in content.changes if change.replica]
    return " ".join(["EntryConfChangeV2", *changes])


def describe_snapshot(snapshot: SnapshotMeta) -> str:
    conf = snapshot.conf
    return (
        f"Index:{snapshot.index} Term:{snapshot.term} ConfState:Voters:{_list(conf.voters)}"
        f" VotersOutgoing:{_list(conf.voters_outgoing)} Learners:{_list(conf.learners)}"
        f" LearnersNext:{_list(conf.learners_next)} AutoLeave:{str(conf.auto_leave).lower()}"
    )


def _list(ids: Iterable[ReplicaId]) -> str:
    return f"[{' '.join(map(str, ids))}]"


def describe_log(entries: Sequence[Entry], *, first: int, last: int) -> list[str]:
    if not entries:
        return [f"log is empty: first index={first}, last index={last}"]
    return [describe_entry(entry) for entry in entries]


def describe_standing(replica: ReplicaId, role: Role, conf: ConfState, *, term: int, leader: int) -> str:
    voter = "Voter" if replica in {*conf.voters, *conf.voters_outgoing} else "Non-Voter"
    return f"{replica}: {ROLE_TEXT[role]} ({voter}) Term:{term} Lead:{leader}"


def describe_status(status: ProgressStatus) -> str:
    text = f"{status.replica}: {STATE_TEXT[status.state]} match={status.match} next={status.next}"
    if status.is_learner:
        text += " learner"
    if status.is_paused:
        text += " paused"
    if status.pending_snapshot:
        text += f" pendingSnap={status.pending_snapshot}"
    if not status.recent_active:
        text += " inactive"
    if status.inflight_count:
        text += f" inflight={status.inflight_count}" + ("[full]" if status.is_window_full else "")
    return text
