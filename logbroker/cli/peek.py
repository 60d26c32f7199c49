"""`logbroker peek`: look at messages without receiving them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.exits import Exit
from logbroker.cli.output import Format, Output, Row, output_options
from logbroker.cli.records import content_of
from logbroker.cli.targets import TARGET_FORMS, parse_target
from logbroker.cli.times import format_time

if TYPE_CHECKING:
    from logbroker_client import Client, PeekedMessage

_SHOWN_LENGTH = 60
"""Characters of a value in a table."""


@click.command()
@click.argument("queue")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group whose states are shown.")
@click.option("-n", "--count", type=click.IntRange(1), default=10, show_default=True, help="At most so many messages.")
@click.option("--from", "start", metavar="TARGET", help=f"First message, and then acked and dead too: {TARGET_FORMS}.")
@click.option("--max-bytes", type=click.IntRange(1), default=1 << 20, show_default=True, help="Of batches to be read.")
@output_options
@connection_options
def peek(
    queue: str, group: str, count: int, start: str | None, max_bytes: int, output: Output, connection: Connection
) -> int:
    """Look at the next messages of a group, or at those from a time or offset on. Nothing is leased or changed.

    Examples:

    \b
      logbroker peek orders -n 3
      logbroker peek orders --from -15m -g billing -o ndjson
    """
    position = None if start is None else parse_target(start, queue=queue, now_ms=time.time_ns() // 1_000_000)

    async def work(client: Client) -> list[PeekedMessage]:
        return await client.peek(queue, group=group, start=position, max_count=count, max_bytes=max_bytes)

    found = connection.run(work)
    rows = [_row(message) for message in found]
    if output.format is Format.TABLE:
        rows = [{**row, "value": _line(message)} for row, message in zip(rows, found, strict=True)]
    columns = ("id", "state", "deliveries", "append_time", "value")
    output.rows(rows, (*columns, "origin", "cause", "reason") if any("origin" in row for row in rows) else columns)
    unreadable = [message.corrupt for message in found if message.corrupt is not None]
    if unreadable:
        output.warn(f"{len(unreadable)} of {len(found)} messages cannot be read: {unreadable[0].message}")
    return Exit.PARTIAL if unreadable else Exit.OK


def _row(message: PeekedMessage) -> Row:
    row: Row = {
        "id": str(message.id),
        "partition": message.partition,
        "offset": message.offset,
        "state": message.state,
        "deliveries": message.deliveries,
        "append_ms": message.append_ms,
        "append_time": format_time(message.append_ms),
        "visible_at_ms": message.visible_at_ms or None,
    }
    if message.corrupt is not None:
        return {**row, "problem": message.corrupt.message}
    return {**row, **content_of(message), **_history(message)}


def _history(message: PeekedMessage) -> Row:
    """Where it came from and why, if it was moved here."""
    history = message.history
    if history is None:
        return {}
    return {
        "origin": str(history.origin),
        "attempts": history.attempts,
        "cause": history.cause,
        "reason": history.reason,
        "consumer": history.consumer,
    }


def _line(message: PeekedMessage) -> str | None:
    """The value as one short line; what a terminal would act on is written as Python writes it."""
    if message.corrupt is not None or message.value is None:
        return None
    text = message.value[: 4 * _SHOWN_LENGTH].decode(errors="replace")
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."
