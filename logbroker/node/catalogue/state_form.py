"""The canonical bytes of the catalogue: what the digest hashes and a checkpoint holds.

Equal states give equal bytes, however they came about: tables are sorted and slices are cut by count alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar, final

import msgspec

from logbroker.node.catalogue.bounds import MAX_MEMBERS, MAX_RETIRED_INCARNATIONS
from logbroker.node.catalogue.options import Pairs, encode_options
from logbroker.node.catalogue.rows import (
    GroupRow,
    Incarnation,
    Node,
    NodeRow,
    Number,
    QueueRow,
    RewindRow,
    Row,
    Text,
    TokenRow,
)
from logbroker.node.catalogue.state import CatalogueState, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# At these counts the largest rows still encode in a few milliseconds: a rewind of 1,024 partitions takes about 0.2.
ROWS_PER_SLICE = 64
REWINDS_PER_SLICE = 16

T = TypeVar("T")


@final
class Head(Row, frozen=True, tag=1):
    index: Number
    term: Number
    append_ms: Number
    log_start_index: Number
    epoch: Number
    cluster_id: Annotated[bytes, msgspec.Meta(max_length=16)]
    name: Text
    members: Annotated[tuple[Node, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
    without: Annotated[tuple[Node, ...], msgspec.Meta(max_length=MAX_MEMBERS)]
    next_group: Number
    next_queue: Number
    next_replica: Number
    next_rewind: Number


@final
class RetiredSlice(Row, frozen=True, tag=2):
    lives: Annotated[tuple[tuple[Node, Incarnation], ...], msgspec.Meta(max_length=MAX_RETIRED_INCARNATIONS)]


@final
class NodeSlice(Row, frozen=True, tag=3):
    rows: tuple[NodeRow, ...]


@final
class GroupSlice(Row, frozen=True, tag=4):
    rows: tuple[GroupRow, ...]


@final
class QueueSlice(Row, frozen=True, tag=5):
    rows: tuple[QueueRow, ...]


@final
class TokenSlice(Row, frozen=True, tag=6):
    rows: tuple[TokenRow, ...]


@final
class RewindSlice(Row, frozen=True, tag=7):
    rows: tuple[RewindRow, ...]


@final
class OptionSlice(Row, frozen=True, tag=8):
    """(queue id, options), of the queues that have some."""

    rows: tuple[tuple[Number, Pairs], ...]


Section: TypeAlias = Head | RetiredSlice | NodeSlice | GroupSlice | QueueSlice | TokenSlice | RewindSlice | OptionSlice

section_decoder = msgspec.msgpack.Decoder(Section)
_encoder = msgspec.msgpack.Encoder()


def state_slices(head: Head, state: CatalogueState) -> Iterator[bytes]:
    """Yield the sections of the state; `head` repeats what the state says of itself (see `head_of`)."""
    yield _encoder.encode(head)
    yield _encoder.encode(RetiredSlice(state.retired))
    for nodes in _slices(in_order(state.nodes), ROWS_PER_SLICE):
        yield _encoder.encode(NodeSlice(nodes))
    for groups in _slices(in_order(state.groups), ROWS_PER_SLICE):
        yield _encoder.encode(GroupSlice(groups))
    for queues in _slices(in_order(state.queues), ROWS_PER_SLICE):
        yield _encoder.encode(QueueSlice(queues))
    for tokens in _slices(in_order(state.tokens), ROWS_PER_SLICE):
        yield _encoder.encode(TokenSlice(tokens))
    for rewinds in _slices(in_order(state.rewinds), REWINDS_PER_SLICE):
        yield _encoder.encode(RewindSlice(rewinds))
    options = [(queue_id, encode_options(state.options[queue_id])) for queue_id in sorted(state.options)]
    for pairs in _slices(options, ROWS_PER_SLICE):
        yield _encoder.encode(OptionSlice(pairs))


def head_of(state: CatalogueState, *, index: int, term: int, append_ms: int, log_start_index: int, epoch: int) -> Head:
    return Head(
        index=index,
        term=term,
        append_ms=append_ms,
        log_start_index=log_start_index,
        epoch=epoch,
        cluster_id=state.cluster_id,
        name=state.name,
        members=state.members,
        without=state.without,
        next_group=state.next_group,
        next_queue=state.next_queue,
        next_replica=state.next_replica,
        next_rewind=state.next_rewind,
    )


def _slices(rows: Sequence[T], count: int) -> Iterator[tuple[T, ...]]:
    for start in range(0, len(rows), count):
        yield tuple(rows[start : start + count])
