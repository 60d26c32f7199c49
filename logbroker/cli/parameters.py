"""Kinds of option values: durations, times, rewind targets."""

from __future__ import annotations

import time
from typing import Any, final

import rich_click as click

from logbroker.cli.times import DURATION_FORMS, TIME_FORMS, parse_duration, parse_time
from logbroker.errors import InvalidArgumentError


@final
class Duration(click.ParamType[int]):
    """A duration; the value is milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401  click's
        if isinstance(value, int):
            return value
        try:
            return parse_duration(str(value))
        except InvalidArgumentError as error:
            self.fail(error.message, param, ctx)


@final
class PointInTime(click.ParamType[int]):
    """A point in time; the value is milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401  click's
        if isinstance(value, int):
            return value
        try:
            return parse_time(str(value), now_ms=time.time_ns() // 1_000_000)
        except InvalidArgumentError as error:
            self.fail(error.message, param, ctx)


DURATION = Duration()
TIME = PointInTime()

__all__ = ["DURATION", "DURATION_FORMS", "TIME", "TIME_FORMS", "Duration", "PointInTime"]
