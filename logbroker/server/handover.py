"""Leases between their commit and their consumer: those that never reach it go back, and do not count as deliveries.

So do those that are to go back when the connection ends (`holdings`).

A repeat of a receive gets the same lease, perhaps on another connection. So a lease whose connection is gone waits for
one sweep, and goes back only if no other connection has taken it over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.node.requests import ReleaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.errors import LogBrokerError
    from logbroker.ids import GroupId, GroupName, LeaseId
    from logbroker.node.requests import Answer, Reply, Request

LeaseKey = tuple["GroupId", "LeaseId"]


@final
class Handover:
    """One for all connections of a node; `owner` is the connection that has the reply in its buffer, or has it held."""

    def __init__(self, submit: Callable[[GroupId, Request, Answer], None]) -> None:
        self.released = 0
        """Leases given back since the start."""
        self._submit = submit
        self._owners: dict[LeaseKey, object] = {}
        self._orphans: dict[LeaseKey, GroupName] = {}
        self._fresh: dict[LeaseKey, GroupName] = {}

    @property
    def open_count(self) -> int:
        """Leases that are on their way, go back with their connection, or wait to go back."""
        return len(self._owners) + len(self._orphans) + len(self._fresh)

    def begin(self, key: LeaseKey, owner: object) -> None:
        """The reply with the lease is in the owner's buffer."""
        self._owners[key] = owner
        self._orphans.pop(key, None)
        self._fresh.pop(key, None)

    def written(self, key: LeaseKey, owner: object) -> None:
        """The reply was handed to the operating system, and the lease is the client's alone."""
        if self._owners.get(key) is owner:
            del self._owners[key]

    def lost(self, key: LeaseKey, group: GroupName, owner: object) -> None:
        """The owner's connection is gone, and the reply with it."""
        if self._owners.get(key) is owner:
            del self._owners[key]
            self._fresh[key] = group

    def give_back(self, key: LeaseKey, group: GroupName, owner: object) -> None:
        """As `lost`, without a wait for somebody who takes it over: nobody could here."""
        if self._owners.get(key) is owner:
            del self._owners[key]
            self._release(key, group)

    def unwanted(self, key: LeaseKey, group: GroupName) -> None:
        """The lease was made for somebody who was gone already."""
        if key not in self._owners:
            self._fresh[key] = group

    def sweep(self) -> None:
        """Give back what was lost before the last sweep and not taken over since."""
        due, self._orphans, self._fresh = self._orphans, self._fresh, {}
        for key, consumer_group in due.items():
            self._release(key, consumer_group)

    def _release(self, key: LeaseKey, consumer_group: GroupName) -> None:
        group, lease = key
        self.released += 1
        self._submit(group, ReleaseRequest(consumer_group, lease), _ignore)


def _ignore(_: Reply | LogBrokerError) -> None:
    """Where it did not work the lease ends by its hide time."""
