"""Kinds of option values."""

from __future__ import annotations

from typing import Any, final

import rich_click as click

from logbroker.cli.times import parse_duration
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


DURATION = Duration()
