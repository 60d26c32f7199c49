"""What wakes one task of a loop: a flag and a task, where an event would be made anew for each wake."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class Bell:
    """Wakes one task; ringing it again before that task runs costs nothing."""

    __slots__ = ("_is_rung", "_task")

    def __init__(self) -> None:
        self._is_rung = False
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        self._is_rung = True
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Return when it is rung, at once if it was already; a checkpoint in any case."""
        if self._is_rung:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._is_rung = False

    def _abort(self, _: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
