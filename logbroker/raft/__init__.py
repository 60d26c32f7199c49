"""A Raft core without I/O: see README.md."""

from __future__ import annotations

from logbroker.raft.config_change import (
    ChangeKind,
    ConfigChange,
    ConfigChangeError,
    ConfigProposal,
    Transition,
    change_config,
)
from logbroker.raft.core import ProgressStatus, RaftCore, RaftStatistics
from logbroker.raft.log import CompactedError, LogStorage, UnavailableEntryError
from logbroker.raft.messages import (
    ConfState,
    HardState,
    Message,
    MessageKind,
    PersistToken,
    ReadState,
    Ready,
    Role,
    SnapshotMeta,
    SoftState,
)
from logbroker.raft.progress import ProgressState
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from logbroker.raft.settings import RaftConfig
from logbroker.raft.trace import TraceEvent, TraceKind

__all__ = [
    "ChangeKind",
    "CompactedError",
    "ConfState",
    "ConfigChange",
    "ConfigChangeError",
    "ConfigProposal",
    "HardState",
    "LogStorage",
    "Message",
    "MessageKind",
    "PersistToken",
    "ProgressState",
    "ProgressStatus",
    "ProposalRefused",
    "RaftConfig",
    "RaftCore",
    "RaftStatistics",
    "ReadState",
    "Ready",
    "RefusalReason",
    "Role",
    "SnapshotMeta",
    "SoftState",
    "TraceEvent",
    "TraceKind",
    "Transition",
    "UnavailableEntryError",
    "change_config",
]
