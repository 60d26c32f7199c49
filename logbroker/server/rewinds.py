"""Rewinds that the catalogue has decided, carried out: every node drives the partitions that it leads itself.

The meta group's commit has fixed id, order and target, and every node sees it. So the leader of a partition asks that
partition, once for each id and in their order, and reports what came of it; the catalogue keeps the report. A leader
that fails is followed by one that finds the rewind pending still, and asks again: a partition carries an id out once.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NoReturn, final

import trio

from logbroker.errors import LogBrokerError, RequestError, UnavailableError
from logbroker.node import requests as node_requests
from logbroker.node.catalogue.commands import FinishRewind
from logbroker.node.catalogue.rows import MAX_TEXT_BYTES
from logbroker.node.requests import RewindReply, RewindRequest
from logbroker.server.targets import partition_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.ids import GroupId
    from logbroker.node.catalogue import Catalogue
    from logbroker.node.catalogue.rows import RewindRow
    from logbroker.node.requests import Reply
    from logbroker.server.backend import Backend

logger = logging.getLogger(__name__)

ROUND_S = 0.5
"""What was not answered, or whose report was lost, is tried again after this."""

_Name = tuple[int, int]
"""Rewind id and partition."""


@final
class RewindDriver:
    """One for each node."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._asked: set[_Name] = set()
        self._finished: dict[_Name, FinishRewind] = {}
        self._woken = trio.Event()

    async def run(self) -> NoReturn:
        """Drive for ever."""
        while True:
            self._woken = trio.Event()
            self.drive()
            with trio.move_on_after(ROUND_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._wait_catalogue, self._woken)
                    await self._woken.wait()
                    nursery.cancel_scope.cancel()

    async def _wait_catalogue(self, woken: trio.Event) -> None:
        await self._backend.wait_catalogue_change()
        woken.set()

    def drive(self) -> None:
        """Ask every partition led here for the first rewind that it has not done, and report what is done."""
        try:
            catalogue = self._backend.catalogue
        except UnavailableError:
            return
        pending = {(row.rewind_id, number) for row, number, _ in _to_do(catalogue)}
        self._finished = {name: report for name, report in self._finished.items() if name in pending}
        for row, number, group in _to_do(catalogue):
            name = (row.rewind_id, number)
            if name not in self._finished and name not in self._asked:
                self._ask(row, number, group)
        if self._finished:
            self._backend.report(tuple(self._finished.values()))

    def _ask(self, row: RewindRow, number: int, group: GroupId) -> None:
        if self._backend.leader_node(group) != self._backend.node:
            return
        name = (row.rewind_id, number)
        target = partition_target(row.target, number)
        if target is None:
            self._finished[name] = FinishRewind(row.rewind_id, number, 0, 0, 0, "not named: it stays as it is")
            return
        self._asked.add(name)
        request = RewindRequest(row.consumer_group, row.rewind_id, target, forward=row.forward, clamp=True)
        self._backend.submit(group, request, partial(self._answer, row, number, target))

    def _answer(
        self, row: RewindRow, number: int, target: node_requests.Target, result: Reply | LogBrokerError
    ) -> None:
        name = (row.rewind_id, number)
        self._asked.discard(name)
        match result:
            case RewindReply():
                self._finished[name] = FinishRewind(
                    row.rewind_id,
                    number,
                    result.start_offset,
                    result.start_ms,
                    result.moved_count,
                    _clamped(target, result),
                )
            case RequestError():
                # It is decided, so this partition cannot refuse: it reports why there was nothing to do.
                logger.warning("rewind_idle id=%d partition=%d reason=%r", row.rewind_id, number, result.message)
                self._finished[name] = FinishRewind(row.rewind_id, number, 0, 0, 0, result.message[:MAX_TEXT_BYTES])
            case _:
                # Not led here any more, or not decided: the next round asks again.
                return
        self._woken.set()


def _to_do(catalogue: Catalogue) -> Iterator[tuple[RewindRow, int, GroupId]]:
    """Yield (rewind, partition, group) of what each consumer group and partition has to do next."""
    seen: set[tuple[int, str, int]] = set()
    for row in catalogue.pending_rewinds():
        queue = catalogue.queue(row.queue)
        if queue is None or queue.queue_id != row.queue_id:
            continue
        for number in range(row.partition_count):
            place = (row.queue_id, row.consumer_group, number)
            if place not in seen and not row.is_done_in(number):
                seen.add(place)
                yield row, number, queue.groups[number]


def _clamped(target: node_requests.Target, reply: RewindReply) -> str:
    if isinstance(target, node_requests.OffsetTarget) and target.offset != reply.start_offset:
        return f"offset {target.offset} is not there; it is {reply.start_offset}, the nearest that is"
    return f"it is {reply.start_offset}, the nearest that is there" if reply.clamped else ""
