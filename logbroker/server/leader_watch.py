"""Counts how often the groups of a node changed their leader, as far as whoever looks now and then can see."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logbroker.ids import GroupId, NodeId
    from logbroker.node.node_status import GroupStatus


@final
class LeaderWatch:
    """`changes` grows with every leader that is another than the one seen before, in whatever term; a first one does
    not count, and neither does a leader that is lost before there is a next one."""

    def __init__(self) -> None:
        self.changes = 0
        self._leaders: dict[GroupId, NodeId] = {}

    def look(self, groups: Iterable[GroupStatus]) -> None:
        """Compare with the last look; groups that are gone are forgotten."""
        leaders: dict[GroupId, NodeId] = {}
        for group in groups:
            before = self._leaders.get(group.group)
            leader = group.leader_node or before
            if leader is None:
                continue
            self.changes += before is not None and leader != before
            leaders[group.group] = leader
        self._leaders = leaders
