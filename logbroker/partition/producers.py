"""Idempotent producers of one partition: the last five batches of each, at most 10,000 producers.

Kafka's rules (ProducerStateEntry, KIP-98), one of them stricter, so that a client that retries with its sequence
numbers appends once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias, final

import msgspec

from logbroker.errors import CorruptBatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_PRODUCERS = 10_000
KEPT_BATCHES = 5
"""As many as a producer may have in flight, so that a retry of any of them is known."""

NO_PRODUCER = -1
_SEQUENCES = 1 << 31

_Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Epoch: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 15) - 1)]
_Sequence: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_SEQUENCES - 1)]


@final
class ProducerState(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """What is remembered of one producer; `batches` are (first sequence, last sequence, base offset), oldest first."""

    producer_id: _Id
    epoch: _Epoch
    batches: Annotated[
        tuple[tuple[_Sequence, _Sequence, _Id], ...], msgspec.Meta(min_length=1, max_length=KEPT_BATCHES)
    ]
    last_ms: _Id


@final
@dataclass(frozen=True, slots=True)
class Duplicate:
    """The batch is in the log already, at this offset."""

    base_offset: int


@final
@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """The producer's next sequence is `expected`, and the batch is none of its last five."""

    expected: int


@final
@dataclass(frozen=True, slots=True)
class Fenced:
    """A newer epoch of the producer has produced."""

    epoch: int


Objection: TypeAlias = Duplicate | OutOfOrder | Fenced


def last_sequence(base_sequence: int, count: int) -> int:
    """Return the sequence of the last of `count` records; sequences go from 2^31 - 1 to 0."""
    return (base_sequence + count - 1) % _SEQUENCES


@final
class Producers:
    """Producers, least recent in log time first."""

    __slots__ = ("_states",)

    def __init__(self) -> None:
        self._states: OrderedDict[int, ProducerState] = OrderedDict()

    @classmethod
    def decode(cls, states: Iterable[ProducerState]) -> Producers:
        """Build from states, least recent first.

        Raises:
            CorruptBatchError: too many, one twice, or not in order of time.
        """
        producers = cls()
        last_ms = 0
        for state in states:
            if state.producer_id in producers._states or state.last_ms < last_ms:
                raise CorruptBatchError(f"producer {state.producer_id} stands twice or out of order of time")
            producers._states[state.producer_id] = state
            last_ms = state.last_ms
        if len(producers._states) > MAX_PRODUCERS:
            raise CorruptBatchError(f"{len(producers._states)} producers; the most is {MAX_PRODUCERS}")
        return producers

    def clone(self) -> Producers:
        other = Producers()
        other._states = self._states.copy()
        return other

    def __len__(self) -> int:
        return len(self._states)

    def states(self) -> Iterator[ProducerState]:
        """Yield what is known, least recent first."""
        return iter(self._states.values())

    def judge(self, producer_id: int, *, epoch: int, base_sequence: int, count: int) -> Objection | None:
        """Say why a batch of this producer is not the next one, or None if it is.

        An unknown producer begins at 0, and so does a new epoch. Kafka lets an unknown one begin anywhere. Here that
        would let the second of two batches overtake a first one that was refused, and a late retry of a producer that
        was forgotten stand in the log twice. Whoever was forgotten begins again under a new id.
        """
        state = self._states.get(producer_id)
        if state is None:
            return None if base_sequence == 0 else OutOfOrder(0)
        if epoch != state.epoch:
            if epoch < state.epoch:
                return Fenced(state.epoch)
            return None if base_sequence == 0 else OutOfOrder(0)
        expected = (state.batches[-1][1] + 1) % _SEQUENCES
        if base_sequence == expected:
            return None
        last = last_sequence(base_sequence, count)
        for known_first, known_last, base_offset in state.batches:
            if known_first == base_sequence and known_last == last:
                return Duplicate(base_offset)
        return OutOfOrder(expected)

    def record(
        self, producer_id: int, *, epoch: int, base_sequence: int, count: int, base_offset: int, append_ms: int
    ) -> None:
        """Remember a batch that was judged to fit; the least recent producer makes room."""
        batch = (base_sequence, last_sequence(base_sequence, count), base_offset)
        state = self._states.get(producer_id)
        batches = (batch,) if state is None or state.epoch != epoch else (*state.batches, batch)[-KEPT_BATCHES:]
        self._states[producer_id] = ProducerState(producer_id, epoch, batches, append_ms)
        self._states.move_to_end(producer_id)
        if len(self._states) > MAX_PRODUCERS:
            self._states.popitem(last=False)
