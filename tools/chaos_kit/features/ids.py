"""Ids of one's own: each is sent several times, also by other producers after a client has crashed."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import trio

from logbroker.errors import DedupConflictError, LogBrokerError, UnavailableError, UnknownOutcomeError
from logbroker_client import connect
from tools.chaos_kit.features.queues import UNIQUE
from tools.chaos_kit.features.stage import CONNECT_S, RETRY_S
from tools.chaos_kit.features.told import Attempt
from tools.chaos_kit.record import Outcome

if TYPE_CHECKING:
    from logbroker_client import Client
    from logbroker_client.producer import Producer
    from tools.chaos_kit.features.stage import Stage, Work

_EVERY_S = 0.4
_CRASH_SHARE, _CRASH_S = 0.15, 0.03
_AGAIN_SHARE, _OTHER_SHARE = 0.2, 0.05
_REMEMBERED = 100


@final
@dataclass(slots=True)
class _Todo:
    """An id that has to be confirmed so often."""

    name: str
    times: int


@final
@dataclass(slots=True)
class _Sender:
    """What outlives its client: as a database that lists what is to be sent."""

    stage: Stage
    count: int = 0
    todo: _Todo | None = None
    known: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    async def run(self) -> None:
        """One client after another; none leaves before all that was begun is confirmed."""
        while self.stage.is_producing or self.todo is not None:
            try:
                async with connect(self.stage.urls, timeout=CONNECT_S) as client:
                    with trio.CancelScope() as crash:
                        async with client.producer(UNIQUE.name, timeout=5.0) as producer:
                            await self._one_life(producer, crash)
            except UnavailableError:
                await trio.sleep(RETRY_S)

    async def _one_life(self, producer: Producer, crash: trio.CancelScope) -> None:
        while self.stage.is_producing or self.todo is not None:
            todo = self.todo = self.todo or self._begin()
            self.stage.is_owing = True
            crash_s = _CRASH_S * self.stage.random.random() if self.stage.chance(_CRASH_SHARE) else math.inf
            with trio.move_on_after(crash_s) as life:
                if await self._try(producer, todo.name, todo.name.encode()):
                    todo.times -= 1
            if life.cancelled_caught:
                crash.cancel()
                # Cancelled, the producer does not wait for what is on its way.
                await trio.sleep_forever()
            if todo.times <= 0:
                self.todo, self.stage.is_owing = None, False
                self.known.append(todo.name)
                if self.stage.chance(_OTHER_SHARE):
                    await self._try(producer, todo.name, b"other " + todo.name.encode())
            await self.stage.rest(_EVERY_S / 2)

    def _begin(self) -> _Todo:
        random = self.stage.random
        if self.known and random.random() < _AGAIN_SHARE:
            return _Todo(random.choice(self.known), 1)
        self.count += 1
        return _Todo(f"id.{self.count}", random.choice((1, 1, 2, 3)))

    async def _try(self, producer: Producer, name: str, value: bytes) -> bool:
        """Send it once; whether that was confirmed."""
        attempt = Attempt(name, value, trio.current_time())
        self.stage.told.attempts.append(attempt)
        try:
            message_id = await producer.send(value, dedup_id=name)
        except UnknownOutcomeError:
            attempt.outcome = Outcome.UNKNOWN
        except DedupConflictError:
            attempt.outcome, attempt.is_conflict = Outcome.REFUSED, True
        except LogBrokerError:
            attempt.outcome = Outcome.REFUSED
        else:
            attempt.outcome, attempt.offset = Outcome.DONE, message_id.offset
            attempt.place = (message_id.queue, message_id.partition)
            attempt.is_duplicate = message_id.duplicate
            attempt.done_s = trio.current_time()
        return attempt.outcome is Outcome.DONE


async def run_ids(stage: Stage, client: Client) -> None:
    """Work until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.consume, client, UNIQUE, _treat)
        nursery.start_soon(_Sender(stage).run)


async def _treat(work: Work) -> bool:
    return await work.treat_as_usual()
