"""The faults that a simulated disk can be told to have, and the operations that they strike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, final

from logbroker.storage.simulated_cache import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable


class SimulatedCrash(BaseException):
    """The process ends here. Not an Exception, so that no handler of the tested code goes on after it."""


class Action(Enum):
    """What is asked of the disk. The values stand in traces."""

    OPEN = "open"
    CREATE = "create"
    PREAD = "pread"
    PWRITE = "pwrite"
    ALLOCATE = "allocate"
    ZERO_FILL = "zero_fill"
    TRUNCATE = "truncate"
    SYNC = "sync"
    MKDIR = "mkdir"
    RENAME = "rename"
    UNLINK = "unlink"
    RMDIR = "rmdir"
    LIST = "list"
    SYNC_DIR = "sync_dir"


READING: Final = frozenset({Action.OPEN, Action.PREAD, Action.LIST})
"""Actions that change nothing; all others count as changes."""


class Operation(NamedTuple):
    """One call. `number` counts all calls and `change` those that change something, both from 1; for a
    reading call `change` is the number of changes before it."""

    number: int
    change: int
    action: Action
    path: str
    offset: int
    size: int

    def __str__(self) -> str:
        place = f" @{self.offset} +{self.size}" if self.offset or self.size else ""
        return f"{self.action.value} {self.path or '.'}{place}"


class Effect(Enum):
    """What a fault does to the operation that it strikes."""

    ERROR = "error"
    """EIO. At a sync the pages stay visible, are marked clean, and are lost in a crash; a later sync
    of the same pages succeeds and saves nothing."""
    ERROR_DROPPED = "error, dropped"
    """EIO at a sync after which programs see the old content again."""
    NO_ROOM = "no room"
    """ENOSPC; a write puts down half of its bytes first."""
    LOST = "lost"
    """A write or sync that reports success and does nothing."""
    MISDIRECTED = "misdirected"
    """A write that lands `Fault.distance_bytes` further on."""
    CRASH = "crash"
    """SimulatedCrash before the operation does anything."""


def on(*actions: Action, below: str = "") -> Callable[[Operation], bool]:
    """Match operations by what they do (any, if none is named) and by how their path begins."""
    return lambda operation: (not actions or operation.action in actions) and operation.path.startswith(below)


ONLY_FOR: Final = {
    Effect.ERROR_DROPPED: {Action.SYNC},
    Effect.LOST: {Action.PWRITE, Action.SYNC, Action.SYNC_DIR},
    Effect.MISDIRECTED: {Action.PWRITE},
}


@final
@dataclass(slots=True, kw_only=True)
class Fault:
    """A planned fault: strikes operations that match, after letting `skip` of them pass, `times` times."""

    effect: Effect
    matches: Callable[[Operation], bool]
    skip: int = 0
    times: int = 1
    distance_bytes: int = PAGE_BYTES
    struck: int = 0

    def strikes(self, operation: Operation) -> bool:
        if self.struck >= self.times or not self.matches(operation):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.struck += 1
        return True
