"""`logbroker consume`, `ack` and `nack`: messages out, and settling them later by what `consume` wrote."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast, final

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.exits import Exit
from logbroker.cli.output import Format, Output, output_options
from logbroker.cli.parameters import DURATION
from logbroker.cli.records import MAX_LINE_BYTES, to_object
from logbroker.errors import CorruptBatchError, InvalidArgumentError, NotFoundError, invariant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from logbroker.cli.output import Row
    from logbroker.wire.requests import AnyRequest, Settled
    from logbroker_client import Client, Message
    from logbroker_client.options import OnClose

RANGES_PER_REQUEST = 1_000
_NEWLINE = b"\n"


@final
@dataclass(slots=True)
class _Taken:
    """What became of the messages so far."""

    count: int = 0
    corrupt: int = 0
    last_ids: list[str] = field(default_factory=list)


@click.command()
@click.argument("queue")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group to receive for.")
@click.option("-n", "--count", type=click.IntRange(1), help="Stop after so many messages.")
@click.option("-f", "--follow", is_flag=True, help="Go on waiting for messages until interrupted.")
@click.option("--wait", type=DURATION, default="2s", show_default=True, help="Stop when none comes for this long.")
@click.option("--hide", type=DURATION, help="Hide what is received for this long; the queue's setting if not given.")
@click.option("--ack/--no-ack", "acks", default=True, help="Ack each message once it is written; else it comes again.")
@click.option("--stream", "streams", is_flag=True, help="Subscribe: have messages pushed, and ask for none.")
@click.option(
    "--on-close",
    type=click.Choice(["keep", "release"]),
    default="keep",
    show_default=True,
    help="What is not acked when the connection ends: keep it hidden, or have it delivered to others at once.",
)
@output_options
@connection_options
def consume(
    queue: str,
    group: str,
    count: int | None,
    follow: bool,
    wait: int,
    hide: int | None,
    acks: bool,
    streams: bool,
    on_close: OnClose,
    output: Output,
    connection: Connection,
) -> int:
    """Receive messages and write them to stdout: their values a line each, or objects with -o json or ndjson.

    Examples:

    \b
      logbroker consume orders
      logbroker consume orders -n 10 -o ndjson --no-ack --hide 5m > batch
      logbroker consume orders --group audit --follow -o ndjson | jq .value
      logbroker consume orders --stream --follow
    """
    taken = _Taken()

    async def work(client: Client) -> None:
        import trio

        most = min(count or 1_000, 1_000)
        hide_s = None if hide is None else hide / 1000
        name = "logbroker-cli"
        if streams:
            opened = client.subscribe(queue, group=group, hide=hide_s, credit=most, name=name, on_close=on_close)
        else:
            opened = client.consumer(
                queue, group=group, hide=hide_s, max_messages=most, prefetch=1, name=name, on_close=on_close
            )
        async with opened as consumer:
            while count is None or taken.count < count:
                with trio.move_on_after(float("inf") if follow else wait / 1000) as patience:
                    batch = await consumer.receive()
                if patience.cancelled_caught:
                    return
                messages = list(batch)
                left = len(messages) if count is None else count - taken.count
                shown = _write(messages[:left], put, output, taken)
                if acks:
                    await consumer.ack(shown)
                if messages[left:]:
                    # Several partitions can bring more than was asked for in all.
                    await consumer.nack(messages[left:], reason="more than was asked for")

    with output.stream() as put:
        connection.run(work)
    output.say(f"{taken.count} messages" + (f", {taken.corrupt} of them cannot be read" if taken.corrupt else ""))
    return Exit.PARTIAL if taken.corrupt else Exit.OK


def _write(messages: Iterable[Message], put: Callable[[Row], None], output: Output, taken: _Taken) -> list[Message]:
    """Write messages and give back those that were; an unreadable one is told of and stays unsettled."""
    shown = []
    for message in messages:
        taken.count += 1
        try:
            if output.format is Format.TABLE:
                sys.stdout.buffer.write((message.value or b"") + _NEWLINE)
            else:
                put(to_object(message))
        except CorruptBatchError as error:
            taken.corrupt += 1
            output.warn(error.message)
            continue
        shown.append(message)
    # Acked is what has left this process, not what waits in its buffer.
    sys.stdout.buffer.flush()
    return shown


@click.command()
@click.argument("queue")
@click.argument("messages", nargs=-1, metavar="[ID:LEASE]...")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group that received them.")
@output_options
@connection_options
def ack(queue: str, messages: tuple[str, ...], group: str, output: Output, connection: Connection) -> int:
    """Settle messages that were received with --no-ack.

    They are named by ID:LEASE, or by the lines of `consume --no-ack -o ndjson` on stdin.

    Examples:

    \b
      logbroker ack orders < batch
      logbroker ack orders orders/0/12:851968
    """
    from logbroker.wire.requests import Ack

    def request(partition: int, items: _Items) -> Callable[[int], AnyRequest]:
        return lambda rid: Ack(rid, queue=queue, partition=partition, group=group, items=items)

    return _settle(queue, messages, request, output, connection)


@click.command(epilog="Example: logbroker nack orders --delay 5m --reason 'bank is closed' orders/0/12:851968")
@click.argument("queue")
@click.argument("messages", nargs=-1, metavar="[ID:LEASE]...")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group that received them.")
@click.option("--delay", type=DURATION, help="Deliver again after this long, and not as the queue's backoff says.")
@click.option("--reason", default="", help="Kept with the message for whoever looks later.")
@output_options
@connection_options
def nack(
    queue: str,
    messages: tuple[str, ...],
    group: str,
    delay: int | None,
    reason: str,
    output: Output,
    connection: Connection,
) -> int:
    """Have messages that were received with --no-ack delivered again."""
    from logbroker.wire.requests import Nack

    def request(partition: int, items: _Items) -> Callable[[int], AnyRequest]:
        return lambda rid: Nack(
            rid,
            queue=queue,
            partition=partition,
            group=group,
            items=items,
            delay_ms=delay or 0,
            reason=reason,
            by_policy=delay is None,
        )

    return _settle(queue, messages, request, output, connection)


@click.command(epilog="Example: logbroker reject orders --reason 'no such account' orders/0/12:851968")
@click.argument("queue")
@click.argument("messages", nargs=-1, metavar="[ID:LEASE]...")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group that received them.")
@click.option("--reason", default="", help="Shown by `logbroker dead list`.")
@output_options
@connection_options
def reject(
    queue: str, messages: tuple[str, ...], group: str, reason: str, output: Output, connection: Connection
) -> int:
    """Give messages up that were received with --no-ack: they are dead until `logbroker dead revive`."""
    from logbroker.wire.requests import Reject

    def request(partition: int, items: _Items) -> Callable[[int], AnyRequest]:
        return lambda rid: Reject(rid, queue=queue, partition=partition, group=group, items=items, reason=reason)

    return _settle(queue, messages, request, output, connection)


_Items = list[tuple[int, list[tuple[int, int]]]]
"""(lease, half-open ranges of offsets)."""


def _settle(
    queue: str,
    messages: tuple[str, ...],
    request: Callable[[int, _Items], Callable[[int], AnyRequest]],
    output: Output,
    connection: Connection,
) -> int:
    leased = [_from_argument(text, queue) for text in messages] if messages else list(_from_stdin(queue))

    async def work(client: Client) -> list[dict[str, object]]:
        await client.load_queue(queue)
        count = client.core.routes.partition_count(queue)
        beyond = [partition for partition, _, _ in leased if partition >= count]
        if beyond:
            raise NotFoundError(f"queue {queue} has {count} partitions, {beyond[0]} is not one of them")
        rows = []
        for partition, items in _requests(leased):
            reply = await _ask(client, queue, partition, request(partition, items), connection)
            rows += _rows(partition, items, reply)
        return rows

    rows = connection.run(work)
    output.rows(rows, ("partition", "lease", "done", "already", "stale", "rewound"))
    is_whole = not any(row["stale"] or row["rewound"] for row in rows)
    if not is_whole:
        output.warn("what is stale or rewound was not settled, and is delivered again")
    return Exit.OK if is_whole else Exit.CONFLICT if not any(row["done"] for row in rows) else Exit.PARTIAL


async def _ask(
    client: Client, queue: str, partition: int, build: Callable[[int], AnyRequest], connection: Connection
) -> Settled:
    from logbroker.wire.requests import Settled
    from logbroker_client.transport import wait_among

    timeout_s = connection.timeout_ms / 1000
    call = client.core.call(build, route=(queue, partition), timeout_s=timeout_s, is_repeatable=True)
    if not call.is_done:
        await wait_among(call.waiters)
    if call.error is not None:
        raise call.error
    invariant(isinstance(call.reply, Settled), f"the protocol let {type(call.reply).__name__} answer an ack")
    return cast("Settled", call.reply)


def _requests(leased: list[tuple[int, int, int]]) -> Iterable[tuple[int, _Items]]:
    """Join (partition, lease, offset) into as few requests as their bound allows."""
    found: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for partition, lease, offset in sorted(set(leased)):
        ranges = found.setdefault(partition, {}).setdefault(lease, [])
        if ranges and ranges[-1][1] == offset:
            ranges[-1] = (ranges[-1][0], offset + 1)
        else:
            ranges.append((offset, offset + 1))
    for partition, by_lease in found.items():
        for lease, ranges in by_lease.items():
            for start in range(0, len(ranges), RANGES_PER_REQUEST):
                yield partition, [(lease, ranges[start : start + RANGES_PER_REQUEST])]


def _rows(partition: int, items: _Items, reply: Settled) -> list[dict[str, object]]:
    return [
        {
            "partition": partition,
            "lease": lease,
            "done": result.done,
            "already": result.already,
            "stale": sum(end - start for start, end in result.stale),
            "rewound": sum(end - start for start, end in result.rewound),
        }
        for (lease, _), result in zip(items, reply.results, strict=True)
    ]


def _from_argument(text: str, queue: str) -> tuple[int, int, int]:
    name, _, lease = text.rpartition(":")
    if not (lease.isascii() and lease.isdecimal()):
        raise InvalidArgumentError(f"{text!r} is not ID:LEASE, for example orders/0/12:851968")
    return _leased(name, int(lease), queue)


def _from_stdin(queue: str) -> Iterable[tuple[int, int, int]]:
    if sys.stdin.isatty():
        raise click.UsageError("Give ID:LEASE, or the lines of `consume --no-ack -o ndjson` on stdin.")
    for number, line in enumerate(iter(lambda: sys.stdin.readline(MAX_LINE_BYTES), ""), start=1):
        try:
            found = json.loads(line)
            yield _leased(str(found["id"]), int(found["lease"]), queue)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgumentError(f"line {number} on stdin has no id and lease: {error}") from error


def _leased(name: str, lease: int, queue: str) -> tuple[int, int, int]:
    from logbroker_client import MessageId

    message = MessageId.parse(name)
    if message.queue != queue:
        raise InvalidArgumentError(f"message {name} is not one of queue {queue}")
    return message.partition, lease, message.offset
