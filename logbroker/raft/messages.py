"""The values that cross the border of the Raft core: peer messages, durable state, configuration.

It must not know how messages travel nor where state is kept. The numbers of the enums and the byte
form of `ConfState` are part of the wire and disk formats.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, final

from logbroker.errors import CorruptBatchError
from logbroker.ids import NO_REPLICA, Index, ReplicaId, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.entry import Entry

MAX_MEMBERS = 64
"""Most replicas that one list of a configuration may name; a bound for decoding, not a recommendation."""

_NO_TERM = Term(0)
_NO_INDEX = Index(0)


@final
class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


@final
class MessageKind(IntEnum):
    """What a message between two replicas of one group says."""

    APPEND = 1
    """Leader: entries after (`index`, `log_term`), and its commit index. Without entries it is a probe."""
    APPEND_RESPONSE = 2
    """Follower: durable up to `index`; with `reject`: no match at `index` (try `reject_hint`, of `log_term`)."""
    VOTE = 3
    VOTE_RESPONSE = 4
    PRE_VOTE = 5
    """`term` is the one the sender would campaign in; nobody changes its own term for it."""
    PRE_VOTE_RESPONSE = 6
    HEARTBEAT = 7
    """Leader: I lead; `commit` never exceeds what this follower acknowledged; `context` counts reads."""
    HEARTBEAT_RESPONSE = 8
    SNAPSHOT = 9
    """Leader: your log is too short for mine; `snapshot` says where to start. The driver moves the data."""
    TIMEOUT_NOW = 10
    """Leader: take over at once, without pre-vote."""


@final
@dataclass(frozen=True, slots=True)
class ConfState:
    """Who belongs to a group. Every tuple is sorted and free of doubles.

    While the change is joint, `voters` are the incoming and `voters_outgoing` the old voters, and a
    majority of each is needed. `learners_next` are outgoing voters that turn into learners when the
    joint state is left, which the leader does by itself if `auto_leave` is set.
    """

    voters: tuple[ReplicaId, ...] = ()
    learners: tuple[ReplicaId, ...] = ()
    voters_outgoing: tuple[ReplicaId, ...] = ()
    learners_next: tuple[ReplicaId, ...] = ()
    auto_leave: bool = False

    @property
    def is_joint(self) -> bool:
        return bool(self.voters_outgoing)

    def members(self) -> list[ReplicaId]:
        """Everybody who is sent entries, in ascending order."""
        return sorted({*self.voters, *self.learners, *self.voters_outgoing, *self.learners_next})

    def encode(self) -> bytes:
        lists = (self.voters, self.learners, self.voters_outgoing, self.learners_next)
        counts = [len(ids) for ids in lists]
        ids = [replica for ids in lists for replica in ids]
        return _CONF_HEAD.pack(_CONF_VERSION, self.auto_leave, *counts) + struct.pack(f">{len(ids)}Q", *ids)

    @classmethod
    def decode(cls, data: bytes) -> ConfState:
        """Read what `encode` wrote.

        Raises:
            CorruptBatchError: anything but the canonical form, for any bytes.
        """
        if len(data) < _CONF_HEAD.size:
            raise CorruptBatchError(f"configuration of {len(data)} bytes is shorter than its head of {_CONF_HEAD.size}")
        version, auto_leave, *counts = _CONF_HEAD.unpack_from(data)
        if version != _CONF_VERSION or auto_leave > 1:
            raise CorruptBatchError(f"configuration has version {version} and flag {auto_leave}, not 1 and 0 or 1")
        if max(counts) > MAX_MEMBERS or len(data) != _CONF_HEAD.size + 8 * sum(counts):
            raise CorruptBatchError(f"configuration of {len(data)} bytes does not hold {counts} replicas")
        ids = struct.unpack_from(f">{sum(counts)}Q", data, _CONF_HEAD.size)
        lists: list[tuple[ReplicaId, ...]] = []
        start = 0
        for count in counts:
            part = tuple(ReplicaId(replica) for replica in ids[start : start + count])
            if NO_REPLICA in part or part != tuple(sorted(set(part))):
                raise CorruptBatchError(f"configuration lists {part}, which is not ascending from 1")
            lists.append(part)
            start += count
        voters, learners, voters_outgoing, learners_next = lists
        return cls(voters, learners, voters_outgoing, learners_next, bool(auto_leave))


_CONF_VERSION = 1
_CONF_HEAD = struct.Struct(">BBHHHH")


@final
@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """Where a snapshot ends: state and retained entries up to and including `index`. Index 0 means none."""

    index: Index
    term: Term
    conf: ConfState


@final
class Message(NamedTuple):
    """One message from `sender` to `to`; what the other fields mean depends on `kind`.

    A named tuple and not a frozen dataclass, because this is the most often made value of the
    broker and costs 0.4 us this way against 1.5 us.
    """

    kind: MessageKind
    to: ReplicaId
    sender: ReplicaId
    term: Term
    log_term: Term = _NO_TERM
    index: Index = _NO_INDEX  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a message
    commit: Index = _NO_INDEX
    entries: Sequence[Entry] = ()
    reject: bool = False
    reject_hint: Index = _NO_INDEX
    context: int = 0
    """Heartbeats: the number of reads asked of this leader so far, echoed in the response; 0 is none.
    Vote requests and answers: the term of the entry at `commit`, so that the receiver may learn of it."""
    snapshot: SnapshotMeta | None = None
    campaign_transfer: bool = False
    """A vote request that the old leader wanted, so that nobody's lease on it counts."""


@final
@dataclass(frozen=True, slots=True)
class HardState:
    """What must survive a crash. `commit` may be older than what was known: it is a hint."""

    term: Term = _NO_TERM
    vote: ReplicaId = NO_REPLICA
    commit: Index = _NO_INDEX


@final
@dataclass(frozen=True, slots=True)
class SoftState:
    leader: ReplicaId
    role: Role


@final
@dataclass(frozen=True, slots=True)
class ReadState:
    """The read asked for as `context` may be answered from a state that has applied `index` or more."""

    context: int
    index: Index


@final
@dataclass(frozen=True, slots=True)
class PersistToken:
    """Names one Ready; given back by `RaftCore.on_persisted` when its work is durable."""

    sequence: int


@final
class Ready(NamedTuple):
    """The work of one turn. Nothing in it may be changed by the driver.

    In this order of durability: `hard_state`, then `snapshot`, then `entries` (whose first index may
    lie at or below the last one stored: storage cuts there first). `messages` may leave at once.
    `messages_after_persist` may leave only when the work of this Ready *and of all earlier ones* is
    durable; the driver sends them itself and calls `on_persisted(token)`.
    """

    token: PersistToken
    soft_state: SoftState | None
    """Set when leader or role changed. Reads not answered yet and proposals not committed yet are in doubt."""
    hard_state: HardState | None
    """Set when term or vote changed."""
    entries: Sequence[Entry]
    snapshot: SnapshotMeta | None
    messages: Sequence[Message]
    messages_after_persist: Sequence[Message]
    committed: Sequence[Entry]
    """To apply, in order and without gaps; each is durable here."""
    read_states: Sequence[ReadState]
    must_sync: bool
    """There is something to make durable; without it the token may be given back at once, in its turn."""
