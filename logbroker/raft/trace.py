"""What happened inside a core, as data: for checkers, for replay against a specification, for black boxes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from logbroker.ids import Index, ReplicaId, Term

if TYPE_CHECKING:
    from logbroker.raft.messages import ConfState, Message, Role


@final
class TraceKind(Enum):
    STARTED = "started"
    BECAME_FOLLOWER = "became_follower"
    BECAME_PRE_CANDIDATE = "became_pre_candidate"
    BECAME_CANDIDATE = "became_candidate"
    BECAME_LEADER = "became_leader"
    SENT = "sent"
    RECEIVED = "received"
    REPLICATED = "replicated"
    COMMITTED = "committed"
    CONFIG_APPLIED = "config_applied"
    RESTORED = "restored"


@final
@dataclass(frozen=True, slots=True)
class TraceEvent:
    """The state right after what `kind` says (for RECEIVED: right before it is handled)."""

    kind: TraceKind
    replica: ReplicaId
    role: Role
    term: Term
    vote: ReplicaId
    commit: Index
    last_index: Index
    conf: ConfState
    message: Message | None = None
