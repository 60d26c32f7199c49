"""What is known of one partition: offsets and counts from its leader, files from each node that was asked. Values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class File:
    """One segment: messages from `first_offset` on, with log times from `first_ms` on."""

    first_offset: int
    first_ms: int
    size_bytes: int


@final
@dataclass(frozen=True, slots=True)
class NodeFiles:
    """The files of one node, in their order; `last` is (offset, log time) of the last message in them, if known."""

    node: int
    files: tuple[File, ...]
    last: tuple[int, int] | None = None


@final
@dataclass(frozen=True, slots=True)
class Group:
    """`unsettled` messages, the oldest of which is `oldest_offset`, from `oldest_ms`; 0 where there is none."""

    name: str
    unsettled: int
    oldest_offset: int
    oldest_ms: int
    acked_ahead: int = 0


@final
@dataclass(frozen=True, slots=True)
class Partition:
    """`append_ms` is log time: that of the last entry, which need not be a message."""

    queue: str
    number: int
    retention_ms: int
    log_start: int
    log_end: int
    append_ms: int
    groups: tuple[Group, ...] = ()
    nodes: tuple[NodeFiles, ...] = ()
    problem: str = ""

    @property
    def message_count(self) -> int:
        return self.log_end - self.log_start
