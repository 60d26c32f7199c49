"""One question to many partitions, wherever they are led."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from logbroker.errors import LogBrokerError, NotLeaderError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.ids import GroupId
    from logbroker.node.requests import Reply, Request
    from logbroker.server.backend import Backend

MAX_AT_ONCE = 32
WAIT_S = 5.0
LOOK_AGAIN_S = 0.05
"""Between two tries to find a partition's leader."""


async def ask_partitions(
    backend: Backend, questions: Sequence[tuple[GroupId, Request]], *, wait_s: float = WAIT_S
) -> list[Reply | LogBrokerError]:
    """Give the answers in the order of the questions; who has not answered within `wait_s` is unavailable.

    A node that does not lead has done nothing, so the question goes on looking for one that does. Cancelled, it learns
    nothing of what was carried out.
    """
    late = UnavailableError(f"no answer within {wait_s:g} s")
    answers: list[Reply | LogBrokerError] = [late] * len(questions)
    places = trio.CapacityLimiter(MAX_AT_ONCE)

    async def ask(number: int, group: GroupId, request: Request) -> None:
        async with places:
            while True:
                try:
                    answers[number] = await backend.ask_leader(group, request)
                except NotLeaderError as error:
                    answers[number] = error
                    await trio.sleep(LOOK_AGAIN_S)
                except LogBrokerError as error:
                    answers[number] = error
                    return
                else:
                    return

    with trio.move_on_after(wait_s):
        async with trio.open_nursery() as nursery:
            for number, (group, request) in enumerate(questions):
                nursery.start_soon(ask, number, group, request)
    return answers
