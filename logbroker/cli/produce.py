"""`logbroker produce`: messages from the command line or from stdin; and `logbroker cancel` of those not due yet."""

from __future__ import annotations

import sys
import time
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.exits import Exit
from logbroker.cli.output import Format, Output, output_options
from logbroker.cli.parameters import DURATION
from logbroker.cli.records import MAX_LINE_BYTES, from_object
from logbroker.cli.times import DURATION_FORMS, TIME_FORMS, parse_time
from logbroker.errors import InvalidArgumentError, LogBrokerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from io import BufferedReader

    from logbroker_client import Cancelled, Client, MessageId, NewMessage

READ_BYTES = 1 << 20


@click.command()
@click.argument("queue")
@click.argument("values", nargs=-1)
@click.option("--key", help="Key of all these messages: messages of one key stay in one partition, in order.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME=VALUE", help="Header of all these messages; repeatable."
)
@click.option("--dedup-id", metavar="ID", help="An id of yours for the one message: sent again, it is not doubled.")
@click.option(
    "--delay", "delay_ms", type=DURATION, help=f"Deliver them to nobody before so long has passed: {DURATION_FORMS}."
)
@click.option("--at", metavar="TIME", help=f"Deliver them to nobody before this time: +10m, {TIME_FORMS}.")
@click.option(
    "-i",
    "--input",
    "form",
    type=click.Choice(["lines", "ndjson"]),
    default="lines",
    show_default=True,
    help="What stdin holds if no VALUES are given: a value a line, or an object with value, key and headers.",
)
@output_options
@connection_options
def produce(
    queue: str,
    values: tuple[str, ...],
    key: str | None,
    headers: tuple[str, ...],
    delay_ms: int | None,
    at: str | None,
    dedup_id: str | None,
    form: str,
    output: Output,
    connection: Connection,
) -> None:
    """Send messages, and return when they are committed.

    VALUES are a message each; without them stdin is read. With -o ndjson the id of each message is written.

    Examples:

    \b
      logbroker produce orders hello "and again"
      logbroker produce reminders --delay 10m "the basket is still full"
      logbroker produce orders --key customer-7 --header source=shop '{"total": 12}'
      logbroker produce payments --dedup-id payment-7 '{"cents": 995}'
      zcat orders.ndjson.gz | logbroker produce orders --input ndjson
    """
    shared_headers = tuple(_header(text) for text in headers)
    if form == "ndjson" and (key is not None or shared_headers):
        raise click.UsageError("--key and --header are for --input lines; NDJSON objects have their own.")
    delay, deliver_at = _when(delay_ms, at)
    if dedup_id is not None and len(values) != 1:
        raise click.UsageError("--dedup-id is for one VALUE; NDJSON objects have a dedup_id of their own.")
    shared_key = None if key is None else key.encode()
    committed = known = 0
    last: MessageId | None = None

    async def work(client: Client) -> None:
        nonlocal committed, known, last
        from logbroker_client import NewMessage

        def message(line: bytes) -> NewMessage:
            if form == "ndjson" and not values:
                return NewMessage(*from_object(line.decode()))
            return NewMessage(line, shared_key, shared_headers, dedup_id)

        async with client.producer(queue) as producer, aclosing(_chunks(values)) as chunks:
            async for lines in chunks:
                made = _messages(lines, message, start=committed)
                ids = await producer.send_many(made, delay=delay, deliver_at=deliver_at)
                committed += len(ids)
                known += sum([one.duplicate for one in ids])
                last = ids[-1] if ids else last
                if output.format is not Format.TABLE:
                    for one in ids:
                        told = {"id": str(one), "partition": one.partition, "offset": one.offset}
                        put(told | {"duplicate": True} if one.duplicate else told)

    try:
        with output.stream() as put:
            connection.run(work)
    except LogBrokerError as error:
        if committed:
            message = f"{error.message}; {committed} messages before that are committed"
            raise type(error)(message, hint=error.hint) from error
        raise
    before = f", {known} of them before" if known else ""
    output.say(f"{committed} messages committed" + (f"{before}, the last is {last}" if last else ""))


@click.command(epilog="Example: logbroker cancel reminders reminders/0/12 reminders/0/15")
@click.argument("queue")
@click.argument("messages", nargs=-1, required=True, metavar="ID...")
@output_options
@connection_options
def cancel(queue: str, messages: tuple[str, ...], output: Output, connection: Connection) -> int:
    """Have messages that are not due yet delivered to nobody.

    Ends with exit code 9 where it was too late for some: they are due by now, or were not delayed.
    """
    from logbroker_client import MessageId

    chosen = [MessageId.parse(text) for text in messages]

    async def work(client: Client) -> Cancelled:
        return await client.cancel(queue, chosen)

    found = connection.run(work)
    output.say(f"{found.cancelled} messages cancelled" + (f", too late for {found.late}" if found.late else ""))
    return Exit.PARTIAL if found.late else Exit.OK


def _when(delay_ms: int | None, at: str | None) -> tuple[float, datetime | None]:
    """What `send_many` is told of the two options."""
    if at is None:
        return (delay_ms or 0) / 1_000, None
    if delay_ms is not None:
        raise click.UsageError("Give either --delay or --at.")
    due_ms = parse_time(at, now_ms=time.time_ns() // 1_000_000)
    return 0.0, datetime.fromtimestamp(due_ms / 1_000, UTC)


def _messages(lines: Sequence[bytes], message: Callable[[bytes], NewMessage], *, start: int) -> list[NewMessage]:
    made: list[NewMessage] = []
    for place, line in enumerate(lines):
        try:
            made.append(message(line))
        except (InvalidArgumentError, UnicodeDecodeError) as error:
            text = error.message if isinstance(error, InvalidArgumentError) else str(error)
            raise InvalidArgumentError(f"message {start + place + 1}: {text}") from error
    return made


def _header(text: str) -> tuple[str, bytes | None]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--header {text!r} is not NAME=VALUE.")
    return name, value.encode()


async def _chunks(values: Sequence[str]) -> AsyncGenerator[list[bytes], None]:
    """Yield the lines to send: of the command line at once, of stdin as they come."""
    if values:
        yield [value.encode() for value in values]
        return
    import trio

    # Not `read`, which waits until all of the size is there.
    read = cast("BufferedReader", sys.stdin.buffer).read1
    rest = b""
    while True:
        # One raw read returns what is there, so a slow writer's line does not wait for the next one.
        piece = await trio.to_thread.run_sync(read, READ_BYTES, abandon_on_cancel=True)
        *lines, rest = (rest + piece).split(b"\n")
        if not piece:
            lines = [rest] if rest else []
        if len(rest) > MAX_LINE_BYTES:
            raise InvalidArgumentError(f"a line on stdin is longer than {MAX_LINE_BYTES:,} bytes")
        if lines:
            yield [line.removesuffix(b"\r") for line in lines]
        if not piece:
            return
