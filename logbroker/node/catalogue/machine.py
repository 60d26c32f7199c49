"""The catalogue: the replicated state of the meta group, which says who belongs to the cluster and what it holds.

Apply sees the entry and its append_ms, no clock, no randomness and no configuration. Every command either changes what
it says or changes nothing and is answered with `Refused`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, ClassVar, assert_never, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import invariant
from logbroker.ids import META_GROUP, GroupId, Index, NodeId, Offset, QueueName, ReplicaId, Term
from logbroker.node.catalogue import membership, queues, rewinds
from logbroker.node.catalogue.bounds import CEILINGS, CatalogueLimits
from logbroker.node.catalogue.commands import (
    AlterQueue,
    AlterQueueWith,
    BeginRewind,
    Bootstrap,
    Command,
    CreateQueue,
    CreateQueueWith,
    CreateToken,
    DeleteQueue,
    DeleteToken,
    FinishRewind,
    ForgetNode,
    JoinNode,
    PromoteReplica,
    RemoveReplica,
    SetMembers,
    StartMove,
    StopMove,
    decode_commands,
)
from logbroker.node.catalogue.options import DEFAULT_OPTIONS
from logbroker.node.catalogue.outcomes import (
    Applied,
    Done,
    NodeJoined,
    Outcome,
    QueueGone,
    QueueStands,
    Refused,
    ReplicasPlaced,
    RewindStands,
    invalid,
)
from logbroker.node.catalogue.rights import Principal
from logbroker.node.catalogue.state import CatalogueState, in_order
from logbroker.node.catalogue.state_form import head_of, state_slices
from logbroker.partition.commands import decode_floor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.node.catalogue.options import QueueOptions
    from logbroker.node.catalogue.rows import (
        GroupRow,
        NodeRow,
        QueueRow,
        ReplicaRow,
        RewindRow,
        TokenRow,
    )


@final
class Catalogue:
    """State machine of the meta group; it has the face of a partition's, as far as a replica's driver looks at it.

    Rows that it gives out are immutable and stay as they were; tables are not given out.
    """

    group_id: ClassVar[GroupId] = META_GROUP
    # It holds no messages, so no offset is ever taken.
    next_offset: ClassVar[Offset] = Offset(0)
    log_start_offset: ClassVar[Offset] = Offset(0)

    __slots__ = (
        "_by_digest",
        "_names",
        "_state",
        "append_ms",
        "applied_index",
        "applied_term",
        "epoch",
        "log_start_index",
    )

    def __init__(
        self,
        state: CatalogueState,
        *,
        applied_index: Index,
        applied_term: Term,
        append_ms: int,
        log_start_index: Index,
        epoch: int,
    ) -> None:
        self._state = state
        self._by_digest = {row.digest: row for row in state.tokens.values()}
        self._names = {row.queue_id: row.name for row in state.queues.values()}
        self.applied_index = applied_index
        self.applied_term = applied_term
        self.append_ms = append_ms
        self.log_start_index = log_start_index
        self.epoch = epoch
        """Grows with every entry that changes something."""

    @classmethod
    def new(cls) -> Catalogue:
        """The state before the first entry."""
        return cls(
            CatalogueState(),
            applied_index=Index(0),
            applied_term=Term(0),
            append_ms=0,
            log_start_index=Index(1),
            epoch=0,
        )

    def clone(self) -> Catalogue:
        return Catalogue(
            self._state.clone(),
            applied_index=self.applied_index,
            applied_term=self.applied_term,
            append_ms=self.append_ms,
            log_start_index=self.log_start_index,
            epoch=self.epoch,
        )

    def digest(self) -> bytes:
        """16 bytes that are equal on two replicas if their states are; costs one encoding of the whole state."""
        digest = hashlib.blake2b(digest_size=16)
        for piece in self.slices():
            digest.update(piece)
        return digest.digest()

    def slices(self) -> Iterator[bytes]:
        """Encode the state, piece by piece; it must not change meanwhile."""
        head = head_of(
            self._state,
            index=self.applied_index,
            term=self.applied_term,
            append_ms=self.append_ms,
            log_start_index=self.log_start_index,
            epoch=self.epoch,
        )
        return state_slices(head, self._state)

    def apply(self, entry: Entry) -> Applied:
        """Apply the next entry.

        Raises:
            InvariantError: it is not the next entry of the meta group.
            CorruptBatchError: the payload is not what its kind says.
        """
        invariant(entry.group == META_GROUP, f"entry of group {entry.group} applied to the meta group")
        invariant(
            entry.index == self.applied_index + 1,
            f"entry {entry.index} of the meta group applied after {self.applied_index}",
        )
        append_ms = max(self.append_ms, entry.append_ms)
        outcomes: tuple[Outcome, ...] = ()
        match entry.kind:
            case EntryKind.STATE:
                commands = decode_commands(entry.payload)
                outcomes = tuple(self._run(self._state, command, CEILINGS, append_ms) for command in commands)
            case EntryKind.FLOOR:
                floor = decode_floor(entry.payload)
                self.log_start_index = max(self.log_start_index, Index(floor.start_index))
            case EntryKind.DATA:
                outcomes = (invalid("the meta group holds no messages"),)
            case EntryKind.CONFIG | EntryKind.NOOP:
                # Membership in Raft's sense is kept by whoever drives the core; it only has an index here.
                pass
            case _ as never:
                assert_never(never)
        self.applied_index = entry.index
        self.applied_term = entry.term
        self.append_ms = append_ms
        changed = any(_is_change(outcome) for outcome in outcomes)
        if changed:
            self.epoch += 1
            self._by_digest = {row.digest: row for row in self._state.tokens.values()}
            self._names = {row.queue_id: row.name for row in self._state.queues.values()}
        return Applied(entry.index, outcomes, changed)

    def preview(self, command: Command, limits: CatalogueLimits, *, now_ms: int) -> Outcome:
        """Say what `command` would come to under the configured limits, without doing it.

        For the leader, before it proposes: what is refused here never reaches the log. `now_ms` is the append_ms
        that the entry would get.
        """
        return self._run(self._state.clone(), command, limits, max(self.append_ms, now_ms))

    @staticmethod
    def _run(state: CatalogueState, command: Command, limits: CatalogueLimits, at_ms: int) -> Outcome:
        if not state.is_bootstrapped and not isinstance(command, Bootstrap):
            return invalid("the cluster is not bootstrapped yet")
        match command:
            case Bootstrap():
                return membership.bootstrap(state, command)
            case JoinNode():
                return membership.join_node(state, command)
            case SetMembers():
                return membership.set_members(state, command)
            case ForgetNode():
                return membership.forget_node(state, command)
            case StartMove():
                return membership.start_move(state, command)
            case StopMove():
                return membership.stop_move(state, command)
            case PromoteReplica():
                return membership.promote_replica(state, command)
            case RemoveReplica():
                return membership.remove_replica(state, command)
            case CreateQueue():
                return queues.create_queue(state, command, limits, at_ms)
            case AlterQueue():
                return queues.alter_queue(state, command, limits, at_ms)
            case CreateQueueWith(queue, options):
                return queues.create_queue(state, queue, limits, at_ms, options)
            case AlterQueueWith(queue, options):
                return queues.alter_queue(state, queue, limits, at_ms, options)
            case DeleteQueue():
                return queues.delete_queue(state, command)
            case CreateToken():
                return queues.create_token(state, command, limits, at_ms)
            case DeleteToken():
                return queues.delete_token(state, command)
            case BeginRewind():
                return rewinds.begin_rewind(state, command, limits, at_ms)
            case FinishRewind():
                return rewinds.finish_rewind(state, command)
            case _ as never:
                assert_never(never)

    @property
    def is_bootstrapped(self) -> bool:
        return self._state.is_bootstrapped

    @property
    def cluster_id(self) -> bytes:
        """16 bytes; empty before the bootstrap."""
        return self._state.cluster_id

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The nodes that are to hold every partition, joined or not."""
        return self._state.members

    @property
    def without(self) -> tuple[NodeId, ...]:
        """Members that the bootstrap went without."""
        return self._state.without

    def nodes(self) -> list[NodeRow]:
        return in_order(self._state.nodes)

    def node(self, node: NodeId) -> NodeRow | None:
        return self._state.nodes.get(node)

    def groups(self) -> list[GroupRow]:
        """The meta group and every partition."""
        return self._state.groups_in_order()

    def group(self, group: GroupId) -> GroupRow | None:
        return self._state.groups.get(group)

    def is_deleted(self, group: GroupId) -> bool:
        """True if there was such a group; one that never was may belong to a later catalogue than this."""
        return group < self._state.next_group and group not in self._state.groups

    def homes(self, group: GroupId) -> list[NodeId]:
        """The nodes that have a replica of a group which stays; none where there is no such group."""
        row = self._state.groups.get(group)
        return [] if row is None else [replica.node for replica in row.staying()]

    def is_replica_gone(self, group: GroupId, replica: ReplicaId) -> bool:
        """True if the replica was named once and belongs to the group no more: its node may delete it."""
        row = self._state.groups.get(group)
        return replica < self._state.next_replica and (
            self.is_deleted(group) if row is None else row.replica(replica) is None
        )

    def replicas_on(self, node: NodeId, incarnation: bytes) -> Iterator[tuple[GroupRow, ReplicaRow]]:
        """Yield what this life of `node` is to hold, leaving replicas included."""
        for group in self._state.groups_in_order():
            for row in group.replicas:
                if row.node == node and row.incarnation == incarnation:
                    yield group, row

    def unsettled_groups(self) -> list[GroupRow]:
        """Groups with a replica to come, to be promoted or to go."""
        return [group for group in self._state.groups_in_order() if not group.is_settled()]

    def queues(self) -> list[QueueRow]:
        return in_order(self._state.queues)

    def queue(self, name: str) -> QueueRow | None:
        return self._state.queues.get(QueueName(name))

    def queue_of_id(self, queue_id: int) -> QueueRow | None:
        name = self._names.get(queue_id)
        return None if name is None else self._state.queues.get(name)

    def options(self, queue: QueueRow) -> QueueOptions:
        return self._state.options.get(queue.queue_id, DEFAULT_OPTIONS)

    def tokens(self) -> list[TokenRow]:
        return in_order(self._state.tokens)

    def principal(self, digest: bytes) -> Principal | None:
        """Give the holder of the token with this SHA-256, or None."""
        row = self._by_digest.get(digest)
        if row is None or not hmac.compare_digest(row.digest, digest):
            return None
        return Principal(row.name, row.grants)

    def rewinds(self) -> list[RewindRow]:
        """Rewinds that are remembered, in their order."""
        return in_order(self._state.rewinds)

    def rewind(self, rewind_id: int) -> RewindRow | None:
        return self._state.rewinds.get(rewind_id)

    def pending_rewinds(self) -> list[RewindRow]:
        """What the leader of the meta group has to drive on, in the order in which partitions take it."""
        return [row for row in self.rewinds() if row.is_pending]


def _is_change(outcome: Outcome) -> bool:
    match outcome:
        case Refused():
            return False
        case Done() | NodeJoined() | QueueStands() | RewindStands():
            return not outcome.already
        case ReplicasPlaced() | QueueGone():
            return True
        case _ as never:
            assert_never(never)
