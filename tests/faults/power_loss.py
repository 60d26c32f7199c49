"""What a loss of power may leave of a simulated disk: every state where they are few, otherwise some of them, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logbroker.errors import InvalidArgumentError
from logbroker.storage.simulated_disk import Tear

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from logbroker.storage.simulated_cache import CachedFile
    from logbroker.storage.simulated_disk import SimulatedDisk

WHOLE_SECTORS: Final = (Tear.SECTOR, Tear.BYTE)
EVERY_TEAR: Final = (*WHOLE_SECTORS, Tear.GARBAGE)


def power_losses(
    disk: SimulatedDisk, chance: Random, *, limit: int, torn: int, tears: Sequence[Tear] = EVERY_TEAR
) -> Iterator[tuple[str, SimulatedDisk]]:
    """Each with a name. Up to `limit` of whole pages and names, then `torn` of each way to tear a page."""
    try:
        for number, state in enumerate(disk.crash_states(limit=limit)):
            yield f"state {number}", state
    except InvalidArgumentError:
        yield from _some_states(disk, chance, limit)
    for tear in tears:
        for number in range(torn):
            yield f"{tear.value} {number}", disk.copy().crash(keep=chance, tear=tear)


def settled(disk: SimulatedDisk) -> SimulatedDisk:
    """A disk of its own that durably holds what programs see on this one; cheaper than a copy."""
    names = frozenset(range(len(disk._names.changes)))
    return disk._state_of(names, {file: bytes(file.content) for file in disk._files_after(names)})


def _some_states(disk: SimulatedDisk, chance: Random, limit: int) -> Iterator[tuple[str, SimulatedDisk]]:
    """Nothing of what was not synced, all, each unit alone, all but each, and subsets by chance.

    A unit is one page that was written, one change of a size, or one change of a name.
    """
    units: list[tuple[object, int]] = [(None, number) for number in range(len(disk._names.changes))]
    for file in disk._files_after(frozenset(range(len(disk._names.changes)))):
        if not file.is_synced:
            versions = file.versions()
            units.extend((file, number) for number in versions.pages)
            if len(versions.sizes) > 1:
                units.append((file, -1))
    whole = frozenset(range(len(units)))
    named = [("nothing", frozenset[int]()), ("everything", whole)]
    named += [(f"unit {unit} alone", frozenset({unit})) for unit in whole]
    named += [(f"all but unit {unit}", whole - {unit}) for unit in whole]
    named = named if len(named) <= limit else [*named[:2], *chance.sample(named[2:], limit - 2)]
    while len(named) < limit:
        some = frozenset(unit for unit in whole if chance.randrange(2))
        named.append((f"units {sorted(some)}", some))
    for name, kept in named:
        yield name, _state_with(disk, {units[unit] for unit in kept})


def _state_with(disk: SimulatedDisk, kept: set[tuple[object, int]]) -> SimulatedDisk:
    names = frozenset(number for file, number in kept if file is None)
    left: dict[CachedFile, bytes] = {}
    for file in disk._files_after(names):
        versions = file.versions()
        pages = {number: page.contents[-1 if (file, number) in kept else 0] for number, page in versions.pages.items()}
        size = versions.sizes[-1 if (file, -1) in kept else 0]
        left[file] = bytes(versions.content(size, pages))
    return disk._state_of(names, left)
