"""A sorted map in blocks, cheap to copy: the container behind the run table and the leases.

A million runs in one list would move megabytes for an insertion; in blocks of a few hundred an insertion moves a few
kilobytes, and a copy shares every block until one side writes to it. It knows nothing of what it holds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

# At 512 a bisection and a move within the block cost about the same, and a copied block is 8 KiB.
_FULL = 512
_SMALL = _FULL // 4


class Ordered(Protocol):
    """A key that can be sorted; ints and tuples of ints here."""

    def __lt__(self, other: Self, /) -> bool: ...


K = TypeVar("K", bound=Ordered)
V = TypeVar("V")


@final
class _Block(Generic[K, V]):
    __slots__ = ("keys", "owner", "values")

    def __init__(self, owner: object, keys: list[K], values: list[V]) -> None:
        self.owner = owner
        self.keys = keys
        self.values = values


@final
class BlockedMap(Generic[K, V]):
    """A map from keys to values, iterated in key order.

    `clone` costs one reference per block. Do not change a map while iterating over it.
    """

    __slots__ = ("_blocks", "_count", "_firsts", "_owner")

    def __init__(self) -> None:
        # _firsts[i] is the first key of _blocks[i]; no block is ever empty.
        self._firsts: list[K] = []
        self._blocks: list[_Block[K, V]] = []
        self._count = 0
        # A block is ours to change only while it carries this token.
        self._owner = object()

    def __len__(self) -> int:
        return self._count

    def clone(self) -> BlockedMap[K, V]:
        """Return an independent copy; both sides copy a block before they first change it."""
        other: BlockedMap[K, V] = BlockedMap()
        other._firsts = self._firsts.copy()
        other._blocks = self._blocks.copy()
        other._count = self._count
        self._owner = object()
        return other

    def get(self, key: K) -> V | None:
        place = bisect_right(self._firsts, key) - 1
        if place < 0:
            return None
        block = self._blocks[place]
        i = bisect_left(block.keys, key)
        return block.values[i] if i < len(block.keys) and block.keys[i] == key else None

    def floor(self, key: K) -> V | None:
        """Return the value of the greatest key at or below `key`."""
        place = bisect_right(self._firsts, key) - 1
        if place < 0:
            return None
        block = self._blocks[place]
        return block.values[bisect_right(block.keys, key) - 1]

    def first(self) -> V | None:
        return self._blocks[0].values[0] if self._blocks else None

    def last(self) -> V | None:
        return self._blocks[-1].values[-1] if self._blocks else None

    def values(self) -> Iterator[V]:
        for block in self._blocks:
            yield from block.values

    def items(self) -> Iterator[tuple[K, V]]:
        for block in self._blocks:
            yield from zip(block.keys, block.values, strict=True)

    def values_from(self, key: K) -> Iterator[V]:
        """Yield the values of all keys at or above `key`, in order."""
        place = max(bisect_right(self._firsts, key) - 1, 0)
        for block in self._blocks[place : place + 1]:
            i = bisect_left(block.keys, key)
            yield from block.values[i:] if i else block.values
        for i in range(place + 1, len(self._blocks)):
            yield from self._blocks[i].values

    def set(self, key: K, value: V) -> None:
        if not self._blocks or self._blocks[-1].keys[-1] < key:
            self._append(key, value)
            return
        place = max(bisect_right(self._firsts, key) - 1, 0)
        block = self._own(place)
        i = bisect_left(block.keys, key)
        if i < len(block.keys) and block.keys[i] == key:
            block.values[i] = value
            return
        block.keys.insert(i, key)
        block.values.insert(i, value)
        self._count += 1
        self._firsts[place] = block.keys[0]
        if len(block.keys) > _FULL:
            self._balance(place)

    def update(self, keys: list[K], values: list[V]) -> None:
        """Set many sorted keys at once; cheap where they lie beyond all others."""
        if self._blocks and not self._blocks[-1].keys[-1] < keys[0]:
            for key, value in zip(keys, values, strict=True):
                self.set(key, value)
            return
        for i in range(0, len(keys), _FULL):
            block = _Block(self._owner, keys[i : i + _FULL], values[i : i + _FULL])
            self._blocks.append(block)
            self._firsts.append(block.keys[0])
        self._count += len(keys)

    def delete(self, key: K) -> None:
        """Remove `key`; nothing happens if it is not there."""
        place = bisect_right(self._firsts, key) - 1
        if place < 0:
            return
        keys = self._blocks[place].keys
        i = bisect_left(keys, key)
        if i == len(keys) or keys[i] != key:
            return
        block = self._own(place)
        del block.keys[i]
        del block.values[i]
        self._count -= 1
        if i == 0 or len(block.keys) < _SMALL:
            self._balance(place)

    def splice(self, start: K, end: K, keys: list[K], values: list[V]) -> list[V]:
        """Put `keys` (sorted, within [start, end)) in the place of everything in [start, end).

        Returns:
            The values that were there, in order.
        """
        if not self._blocks:
            self._blocks.append(_Block(self._owner, [], []))
            self._firsts.append(start)
        place = max(bisect_right(self._firsts, start) - 1, 0)
        block = self._own(place)
        i = bisect_left(block.keys, start)
        after = place + 1
        if after == len(self._blocks) or not self._firsts[after] < end:
            j = bisect_left(block.keys, end, i)
            removed = block.values[i:j]
            block.keys[i:j] = keys
            block.values[i:j] = values
        else:
            removed = block.values[i:]
            block.keys[i:] = keys
            block.values[i:] = values
            removed += self._cut_blocks(after, end)
        self._count += len(keys) - len(removed)
        self._balance(place)
        return removed

    def _cut_blocks(self, first: int, end: K) -> list[V]:
        """Remove everything below `end` from the blocks at `first` and after."""
        removed: list[V] = []
        past = first
        while past < len(self._blocks) and self._blocks[past].keys[-1] < end:
            removed += self._blocks[past].values
            past += 1
        if past < len(self._blocks) and self._firsts[past] < end:
            block = self._own(past)
            i = bisect_left(block.keys, end)
            removed += block.values[:i]
            del block.keys[:i]
            del block.values[:i]
            self._firsts[past] = block.keys[0]
        del self._blocks[first:past]
        del self._firsts[first:past]
        return removed

    def _append(self, key: K, value: V) -> None:
        self._count += 1
        if self._blocks:
            block = self._blocks[-1]
            if len(block.keys) < _FULL:
                if block.owner is not self._owner:
                    block = self._own(len(self._blocks) - 1)
                block.keys.append(key)
                block.values.append(value)
                return
        self._blocks.append(_Block(self._owner, [key], [value]))
        self._firsts.append(key)

    def _own(self, place: int) -> _Block[K, V]:
        block = self._blocks[place]
        if block.owner is not self._owner:
            block = _Block(self._owner, block.keys.copy(), block.values.copy())
            self._blocks[place] = block
        return block

    def _balance(self, place: int) -> None:
        """Restore the rules about one block of ours: not empty, not overfull, its first key known."""
        block = self._blocks[place]
        size = len(block.keys)
        if size < _SMALL and place + 1 < len(self._blocks):
            following = self._blocks[place + 1]
            if size + len(following.keys) <= _FULL:
                block.keys += following.keys
                block.values += following.values
                del self._blocks[place + 1]
                del self._firsts[place + 1]
                size = len(block.keys)
        if size == 0:
            del self._blocks[place]
            del self._firsts[place]
            return
        self._firsts[place] = block.keys[0]
        if size > _FULL:
            self._split(place)

    def _split(self, place: int) -> None:
        # Half full, so that the next insertions do not split again.
        block = self._blocks[place]
        step = _FULL // 2
        parts = [
            _Block(self._owner, block.keys[i : i + step], block.values[i : i + step])
            for i in range(0, len(block.keys), step)
        ]
        self._blocks[place : place + 1] = parts
        self._firsts[place : place + 1] = [part.keys[0] for part in parts]
