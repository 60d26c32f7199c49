"""The keys of a partition's messages as numbers, for the leader of a queue that is ordered by key.

Read from the stored batches when they are asked for and kept in memory alone: a cache of what never changes, as it only
has committed messages. It knows nothing of groups, leases or locks.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol, final

from logbroker.errors import LogBrokerError
from logbroker.partition.ordering import NO_KEY
from logbroker.record.batch import BatchLimits, batch_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from logbroker.ids import Offset

BLOCK = 1_024
"""Offsets of one entry of the cache."""
MAX_BLOCKS = 128
"""Eight bytes a key: one MiB a partition, and more messages than one receive compares."""
MAX_FEW = 8
MAX_FEW_BLOCKS = 4_096
"""Blocks of which only the keys are kept, where they are a few: four million messages of a key that is locked."""
MAX_READ_KEYS = 8_192
"""By one receive, but at least a batch: some fifteen milliseconds. What is left is for the next one."""
SEEK_COST = 64
"""What finding a place in the log counts for among them: messages in flight may be far apart."""
# What a batch held was checked by the bounds of its day.
_ANY = BatchLimits(
    max_batch_bytes=1 << 30,
    max_record_bytes=1 << 30,
    max_record_count=1 << 30,
    max_uncompressed_bytes=1 << 30,
    max_header_bytes=1 << 30,
    max_header_count=1 << 30,
)


class StoredBatch(Protocol):
    """A batch of the log; `is_lost`: its bytes are nowhere any more."""

    @property
    def base_offset(self) -> Offset: ...
    @property
    def next_offset(self) -> Offset: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def is_lost(self) -> bool: ...


@final
class KeyIndex:
    """A `KeySource`. `batches` gives the stored batches that hold [start, end), or raises DamageError."""

    def __init__(self, batches: Callable[[int, int], Iterable[StoredBatch]]) -> None:
        self._batches = batches
        # From multiples of BLOCK on; only the last one of the log is not full.
        self._blocks: OrderedDict[int, array[int]] = OrderedDict()
        self._few: OrderedDict[int, frozenset[int]] = OrderedDict()
        self._end = 0
        self._left = 0
        # The last batch that was opened, and its keys: one larger than a block is asked for more than once.
        self._last: tuple[int, array[int]] = (-1, array("Q"))

    def begin(self, end: int) -> None:
        """Let the next receive begin; messages from `end` on are not committed."""
        self._end = end
        self._left = MAX_READ_KEYS

    def keys(self, start: int, end: int) -> array[int] | None:
        """See `KeySource`; empty where nothing is committed."""
        if start >= self._end:
            return array("Q")
        first = start // BLOCK * BLOCK
        block = self._blocks.get(first)
        if block is None or first + len(block) <= start:
            block = self._read_block(first, block)
            if block is None:
                return None
        else:
            self._blocks.move_to_end(first)
        return block[start - first : end - first]

    def few(self, start: int) -> tuple[int, frozenset[int]] | None:
        """See `KeySource`."""
        first = start // BLOCK * BLOCK
        keys = self._few.get(first)
        return None if keys is None else (first + BLOCK, keys)

    def held(self, start: int, end: int) -> tuple[int, ...] | None:
        """See `KeySource`. Reads no more than the batches of these messages, which may be far apart."""
        found = array("Q")
        while start < end:
            first = start // BLOCK * BLOCK
            stop = min(end, first + BLOCK)
            block = self._blocks.get(first)
            if block is None or first + len(block) < stop:
                part = self._read(start, stop)
            else:
                part = block[start - first : stop - first]
            if part is None or len(part) < stop - start:
                return None
            found += part
            start = stop
        return tuple(found)

    def _read_block(self, first: int, block: array[int] | None) -> array[int] | None:
        known = array("Q") if block is None else block
        more = self._read(first + len(known), min(first + BLOCK, self._end))
        if not more:
            return None
        known += more
        self._blocks[first] = known
        self._blocks.move_to_end(first)
        if len(self._blocks) > MAX_BLOCKS:
            self._blocks.popitem(last=False)
        if len(known) == BLOCK:
            distinct = frozenset(known)
            if len(distinct) <= MAX_FEW:
                self._few[first] = distinct
                if len(self._few) > MAX_FEW_BLOCKS:
                    self._few.popitem(last=False)
        return known

    def _read(self, start: int, end: int) -> array[int] | None:
        """The keys of [start, end) as far as they are there; None where it is too much for this receive."""
        found = array("Q")
        base, keys = self._last
        if base <= start and end <= base + len(keys):
            return keys[start - base : end - base]
        if self._left <= 0:
            return None
        self._left -= SEEK_COST
        for batch in self._batches(start, end):
            keys = self._keys_of(batch)
            base = batch.base_offset
            if base > start:
                # Below the log start, where nothing is handed out any more.
                found.extend([NO_KEY] * (min(base, end) - start))
                start = min(base, end)
            part = keys[start - base : end - base]
            found += part
            start += len(part)
        return found

    def _keys_of(self, batch: StoredBatch) -> array[int]:
        """The keys of a whole batch; none where it cannot be opened, as its messages are rejected one by one."""
        if batch.base_offset == self._last[0]:
            return self._last[1]
        count = batch.next_offset - batch.base_offset
        self._left -= count
        keys = array("Q", [NO_KEY] * count)
        if not batch.is_lost:
            # What does not open, or is not what its entry says, was never handed out or is rejected by who gets it.
            with contextlib.suppress(LogBrokerError):
                found = batch_keys(batch.payload, _ANY)
                numbers = {key: NO_KEY if key is None else _number(key) for key in set(found)}
                if len(found) == count:
                    keys = array("Q", [numbers[key] for key in found])
        self._last = (batch.base_offset, keys)
        return keys


def _number(key: bytes) -> int:
    """Two keys of one number, once in a few billion, are locked together, which harms nobody."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") or 1
