"""What a page cache holds, and what a loss of power may leave of it.

A `CachedFile` keeps the content that programs see and every write since the last sync with the bytes
it replaced, so a write costs no copy of the file and the durable content can be had back. After a
power loss each 4 KiB page has, on its own, any content it had since the last sync, the size any size;
each change of a name happened or not. This is wider than what one file system does (they order
more), on purpose: code that survives it does not lean on one file system.

Pure: it draws no chance itself and does no I/O.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PAGE_BYTES = 4096
SECTOR_BYTES = 512

_GARBLED = bytes(byte ^ 0xA5 for byte in range(256))


class Chooser(Protocol):
    """The one door to chance; `random.Random` fits."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 up to and without `stop`."""
        ...


class Tear(Enum):
    """How finely a page that was being written may be torn."""

    NONE = "none"
    SECTOR = "sector"
    """Each sector old or new."""
    BYTE = "byte"
    """New before and old behind any byte, or the other way round."""
    GARBAGE = "garbage"
    """As BYTE, and the sectors that were being written, if with the same bytes, may hold neither."""


class Write(NamedTuple):
    """One change of a file since the last sync; `old` are the bytes that it replaced or cut off."""

    offset: int
    old: bytes
    new: bytes
    old_size: int
    new_size: int


@final
@dataclass(frozen=True, slots=True)
class PageVersions:
    """What one page held since the last sync, the durable content first, and which of its sectors were written."""

    contents: tuple[bytes, ...]
    sectors: tuple[int, ...]

    def torn(self, tear: Tear) -> list[bytes]:
        """Every torn mixture of two of the contents, each once."""
        found: dict[bytes, None] = {}
        if tear is not Tear.NONE:
            for old, new in itertools.combinations(self.contents, 2):
                found.update(dict.fromkeys(_torn(old, new, tear)))
        if tear is Tear.GARBAGE:
            for content in self.contents:
                garbage = _garbage(content)
                found.update(dict.fromkeys(_with_sectors(content, garbage, [start]) for start in self.sectors))
                found[_with_sectors(content, garbage, self.sectors)] = None
        return list(found)

    def choose(self, keep: Chooser, tear: Tear) -> bytes:
        """One content by chance: one that `torn` gives, or for GARBAGE of more than that, or a whole one."""
        last = keep.randrange(len(self.contents))
        new = self.contents[last]
        if tear is Tear.NONE or keep.randrange(2):
            return new
        if tear is Tear.GARBAGE and keep.randrange(2):
            return _with_sectors(new, _garbage(new), [start for start in self.sectors if keep.randrange(2)])
        old = self.contents[keep.randrange(last + 1)]
        if tear is Tear.SECTOR:
            return _with_sectors(old, new, [start for start in self.sectors if keep.randrange(2)])
        difference = int.from_bytes(old, "big") ^ int.from_bytes(new, "big")
        first = PAGE_BYTES - -(-difference.bit_length() // 8)
        last = PAGE_BYTES - 1 - ((difference & -difference).bit_length() - 1) // 8
        cut = first + keep.randrange(last - first + 1)
        return new[:cut] + old[cut:] if keep.randrange(2) else old[:cut] + new[cut:]


@final
@dataclass(frozen=True, slots=True)
class FileVersions:
    """What may be left of one file: one of `sizes`, and for each page that was written one of its contents."""

    durable: bytes
    sizes: tuple[int, ...]
    pages: Mapping[int, PageVersions]

    def content(self, size: int, pages: Mapping[int, bytes]) -> bytearray:
        """Put a file together; a page beyond `size` is lost, one that nobody wrote is zeros."""
        content = bytearray(self.durable[:size])
        content.extend(bytes(size - len(content)))
        for number, page in pages.items():
            start = number * PAGE_BYTES
            if start < size:
                content[start : start + PAGE_BYTES] = page[: size - start]
        return content

    def count(self, tear: Tear) -> int:
        """An upper bound of the contents that `states` gives."""
        plain = math.prod(len(page.contents) for page in self.pages.values())
        torn = sum(plain // len(page.contents) * len(page.torn(tear)) for page in self.pages.values())
        return len(self.sizes) * (plain + torn)

    def states(self, tear: Tear) -> list[bytes]:
        """Every content that may be left with at most one page torn, each once."""
        plain: list[Sequence[bytes]] = [page.contents for page in self.pages.values()]
        choices = [plain]
        for place, page in enumerate(self.pages.values()):
            choices.append([*plain[:place], page.torn(tear), *plain[place + 1 :]])
        found: dict[bytes, None] = {}
        for size, chosen in itertools.product(self.sizes, choices):
            for pages in itertools.product(*chosen):
                found[bytes(self.content(size, dict(zip(self.pages, pages, strict=True))))] = None
        return list(found)

    def choose(self, keep: Chooser, tear: Tear) -> bytearray:
        """One content by chance: all old, all new, or any mixture."""
        match keep.randrange(4):
            case 0:
                return bytearray(self.durable)
            case 1:
                return self.content(self.sizes[-1], {number: page.contents[-1] for number, page in self.pages.items()})
            case _:
                # File systems also stop growing a file between two writes, at the end of any page.
                smallest, largest = min(self.sizes), max(self.sizes)
                ends = range(smallest + PAGE_BYTES - smallest % PAGE_BYTES, largest, PAGE_BYTES)
                size = _pick_of_two(self.sizes, ends, keep)
                return self.content(size, {number: page.choose(keep, tear) for number, page in self.pages.items()})


def _pick_of_two(first: tuple[int, ...], second: range, keep: Chooser) -> int:
    place = keep.randrange(len(first) + len(second))
    return first[place] if place < len(first) else second[place - len(first)]


def _torn(old: bytes, new: bytes, tear: Tear) -> list[bytes]:
    if tear is Tear.SECTOR:
        differing = [
            start
            for start in range(0, PAGE_BYTES, SECTOR_BYTES)
            if old[start : start + SECTOR_BYTES] != new[start : start + SECTOR_BYTES]
        ]
        return [_with_sectors(old, new, some) for some in _subsets(differing)]
    torn = []
    for cut in (place for place in range(PAGE_BYTES) if old[place] != new[place]):
        torn.append(new[:cut] + old[cut:])
        torn.append(old[:cut] + new[cut:])
    return torn


def _garbage(page: bytes) -> bytes:
    return page.translate(_GARBLED)


def _subsets(items: list[int]) -> Iterator[tuple[int, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(items, count) for count in range(len(items) + 1))


def _with_sectors(page: bytes, source: bytes, starts: Sequence[int]) -> bytes:
    mixed = bytearray(page)
    for start in starts:
        mixed[start : start + SECTOR_BYTES] = source[start : start + SECTOR_BYTES]
    return bytes(mixed)


@final
class CachedFile:
    """One file: what programs see, and how to get from there to what the medium holds.

    Invariant: undoing `writes` from the last to the first and then laying `_lost` over the result
    gives the durable content.
    """

    __slots__ = ("_lost", "_lost_size", "content", "names", "writes")

    def __init__(self, content: bytearray | None = None) -> None:
        self.content = bytearray() if content is None else content
        self.writes: list[Write] = []
        # Where the file is or was named since the names were durable; kept by NameTree.
        self.names: list[Place] = []
        # After a failed sync: pages that are marked clean but differ from the medium, with what it holds.
        self._lost: dict[int, bytes] = {}
        self._lost_size = -1

    @property
    def page_count(self) -> int:
        return -(-len(self.content) // PAGE_BYTES)

    @property
    def is_synced(self) -> bool:
        return not self.writes and not self._lost and self._lost_size < 0

    @property
    def unsynced_bytes(self) -> int:
        return sum(len(write.new) for write in self.writes)

    def write(self, offset: int, new: bytes) -> None:
        content = self.content
        old_size = len(content)
        end = offset + len(new)
        if offset > old_size:
            content.extend(bytes(offset - old_size))
        old = bytes(content[offset:end]) if offset < old_size else b""
        content[offset:end] = new
        self.writes.append(Write(offset, old, new, old_size, len(content)))

    def extend(self, size: int) -> None:
        """Grow with zeros; no page is written."""
        old_size = len(self.content)
        self.content.extend(bytes(size - old_size))
        self.writes.append(Write(old_size, b"", b"", old_size, size))

    def cut(self, size: int) -> None:
        old_size = len(self.content)
        old = bytes(self.content[size:])
        del self.content[size:]
        self.writes.append(Write(size, old, b"", old_size, size))

    def sync(self) -> None:
        """All that programs see is durable, but for the pages that an earlier failed sync marked clean."""
        if self.writes and (self._lost or self._lost_size >= 0):
            for write in self.writes:
                for number in _touched(write):
                    self._lost.pop(number, None)
            self._lost_size = len(self.content) if self._lost else -1
        self.writes.clear()

    def fail_sync_visibly(self) -> None:
        """The kernel marks the pages clean: programs see them, a later sync passes them over, a crash
        shows what the medium holds (ext4 and XFS)."""
        durable = self.durable()
        for write in self.writes:
            for number in _touched(write):
                self._lost.setdefault(number, _page(durable, number))
        self._lost_size = len(durable)
        self.writes.clear()

    def fail_sync_dropping(self) -> None:
        """The kernel throws the pages away: programs see the old content again (Btrfs)."""
        self.content = self.durable()
        self.writes.clear()
        self._lost.clear()
        self._lost_size = -1

    def durable(self) -> bytearray:
        """What the medium holds if nothing since the last sync reached it."""
        content = self._at_last_sync()
        if self._lost_size >= 0:
            del content[self._lost_size :]
            content.extend(bytes(self._lost_size - len(content)))
            for number, page in self._lost.items():
                start = number * PAGE_BYTES
                content[start : start + PAGE_BYTES] = page[: max(0, len(content) - start)]
        return content

    def versions(self) -> FileVersions:
        durable = self.durable()
        sizes = {len(durable): None}
        contents: dict[int, list[bytes]] = {}
        sectors: dict[int, set[int]] = {}
        content = self._at_last_sync()
        for write in self.writes:
            _redo(content, write)
            sizes[len(content)] = None
            for number in _touched(write):
                seen = contents.setdefault(number, [_page(durable, number)])
                page = _page(content, number)
                if page != seen[-1]:
                    seen.append(page)
                sectors.setdefault(number, set()).update(_touched_sectors(write, number))
        pages = {number: PageVersions(tuple(seen), tuple(sorted(sectors[number]))) for number, seen in contents.items()}
        return FileVersions(bytes(durable), tuple(sizes), pages)

    def scribble(self, offset: int, data: bytes) -> None:
        """Change bytes on the medium and in the cache, behind everyone's back."""
        _overlay(self.content, offset, data)
        for place, write in enumerate(self.writes):
            old, new = bytearray(write.old), bytearray(write.new)
            _overlay(old, offset - write.offset, data)
            _overlay(new, offset - write.offset, data)
            self.writes[place] = write._replace(old=bytes(old), new=bytes(new))
        for number, page in self._lost.items():
            changed = bytearray(page)
            _overlay(changed, offset - number * PAGE_BYTES, data)
            self._lost[number] = bytes(changed)

    def _at_last_sync(self) -> bytearray:
        content = bytearray(self.content)
        for write in reversed(self.writes):
            if write.new_size < write.old_size:
                content.extend(write.old)
            else:
                content[write.offset : write.offset + len(write.old)] = write.old
                del content[write.old_size :]
        return content


def _redo(content: bytearray, write: Write) -> None:
    if write.new_size < write.old_size:
        del content[write.new_size :]
        return
    if write.offset > len(content):
        content.extend(bytes(write.offset - len(content)))
    content[write.offset : write.offset + len(write.new)] = write.new
    content.extend(bytes(write.new_size - len(content)))


def _touched(write: Write) -> range:
    # A cut counts as a write of zeros over what it cut off; an extension writes nothing.
    end = write.offset + max(len(write.old), len(write.new))
    return range(write.offset // PAGE_BYTES, -(-end // PAGE_BYTES)) if end > write.offset else range(0)


def _touched_sectors(write: Write, number: int) -> range:
    end = write.offset + max(len(write.old), len(write.new))
    start = max(0, write.offset - number * PAGE_BYTES) // SECTOR_BYTES * SECTOR_BYTES
    return range(start, min(PAGE_BYTES, end - number * PAGE_BYTES), SECTOR_BYTES)


def _page(content: bytearray, number: int) -> bytes:
    return bytes(content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]).ljust(PAGE_BYTES, b"\0")


def _overlay(target: bytearray, offset: int, data: bytes) -> None:
    start, end = max(0, offset), min(len(target), offset + len(data))
    if start < end:
        target[start:end] = data[start - offset : end - offset]


@final
class CachedDirectory:
    """One directory: the names that programs see, and those that are durable."""

    __slots__ = ("durable", "entries", "names")

    def __init__(self) -> None:
        self.entries: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.names: list[Place] = []


Node: TypeAlias = CachedFile | CachedDirectory
Place: TypeAlias = tuple[CachedDirectory, str]


@final
@dataclass(frozen=True, slots=True, eq=False)
class NameChange:
    """A node that got a name (`new`), lost it (`old`), or both at once, which is a rename.

    `unsynced` holds the directories whose sync it still needs; then it is durable.
    """

    node: Node
    old: Place | None
    new: Place | None
    unsynced: list[CachedDirectory]


@final
class NameTree:
    """The directories of one disk, with the changes of names that are not durable, in order."""

    def __init__(self, root: CachedDirectory | None = None) -> None:
        self.root = CachedDirectory() if root is None else root
        self.changes: list[NameChange] = []

    def change(self, node: Node, *, old: Place | None, new: Place | None) -> None:
        if old is not None:
            del old[0].entries[old[1]]
        if new is not None:
            new[0].entries[new[1]] = node
            node.names.append(new)
        unsynced = list({id(place[0]): place[0] for place in (old, new) if place is not None}.values())
        self.changes.append(NameChange(node, old, new, unsynced))

    def sync(self, directory: CachedDirectory) -> None:
        waiting: list[NameChange] = []
        for change in self.changes:
            change.unsynced[:] = [other for other in change.unsynced if other is not directory]
            if change.unsynced:
                waiting.append(change)
            else:
                _apply(change, lambda place: place.durable)
                # An earlier change of the same node is overtaken; done later it would undo this one.
                waiting = [earlier for earlier in waiting if earlier.node is not change.node]
        self.changes = waiting

    def after_loss(
        self, happened: Callable[[int], bool], left_of: Callable[[CachedFile], CachedFile]
    ) -> CachedDirectory:
        """The tree after a power loss.

        `happened` is asked for each of `changes`, by its place, whether it reached the medium; `left_of`
        gives a new file with what is left of one.
        """
        cells: dict[CachedDirectory, dict[str, Node]] = {}

        def cells_of(directory: CachedDirectory) -> dict[str, Node]:
            return cells.setdefault(directory, dict(directory.durable))

        for place, change in enumerate(self.changes):
            if happened(place):
                _apply(change, cells_of)
        return _rebuilt(self.root, cells_of, left_of)


def _apply(change: NameChange, cells_of: Callable[[CachedDirectory], dict[str, Node]]) -> None:
    # A node has one name at most, also where the rename before this one was lost.
    for directory, name in change.node.names:
        cells = cells_of(directory)
        if cells.get(name) is change.node:
            del cells[name]
    if change.new is not None:
        directory, name = change.new
        cells_of(directory)[name] = change.node


def _rebuilt(
    directory: CachedDirectory,
    cells_of: Callable[[CachedDirectory], Mapping[str, Node]],
    left_of: Callable[[CachedFile], CachedFile],
) -> CachedDirectory:
    rebuilt = CachedDirectory()
    for name, node in sorted(cells_of(directory).items()):
        left = _rebuilt(node, cells_of, left_of) if isinstance(node, CachedDirectory) else left_of(node)
        left.names.append((rebuilt, name))
        rebuilt.entries[name] = rebuilt.durable[name] = left
    return rebuilt


def files_below(directory: CachedDirectory, prefix: str = "") -> Iterator[tuple[str, CachedFile]]:
    """Every file with its path, in order of the paths' parts, so that runs are repeated exactly."""
    for name in sorted(directory.entries):
        node = directory.entries[name]
        path = f"{prefix}/{name}" if prefix else name
        if isinstance(node, CachedDirectory):
            yield from files_below(node, path)
        else:
            yield path, node
