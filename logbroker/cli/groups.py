"""`logbroker group`: create, list, describe, pause, purge and delete consumer groups of a queue."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Format, Output, Row, confirm, output_options
from logbroker.cli.parameters import DURATION
from logbroker.cli.targets import TARGET_FORMS, parse_target
from logbroker.cli.times import format_time

if TYPE_CHECKING:
    from logbroker.wire.requests import GroupDescription, GroupPartition, Purged
    from logbroker_client import Client

_FIGURES = ("lag", "lag_s", "oldest_age_s", "available", "leased", "delayed", "dead")
_MACHINE_READ = ("oldest_ms", "is_paused", "paused_reason", "paused_until_ms")


@click.group()
def group() -> None:
    """Create, list, describe, pause, resume, purge and delete consumer groups; `default` is always there."""


@group.command(epilog="Example: logbroker group create orders billing --start -1h")
@click.argument("queue")
@click.argument("name")
@click.option("--start", default="latest", show_default=True, metavar="TARGET", help=f"First message: {TARGET_FORMS}.")
@output_options
@connection_options
def create(queue: str, name: str, start: str, output: Output, connection: Connection) -> None:
    """Create a consumer group, which gets its own copy of every message from START on."""
    position = parse_target(start, queue=queue, now_ms=_now_ms())

    async def work(client: Client) -> None:
        await client.create_group(queue, name, start=position)

    connection.run(work)
    output.say(f"group {name} of queue {queue} created")


@group.command(name="list", epilog="Example: logbroker group list orders -o json")
@click.argument("queue")
@output_options
@connection_options
def list_groups(queue: str, output: Output, connection: Connection) -> None:
    """Show the consumer groups of a queue and how far behind each is: in messages, in log time, and by the clock."""

    async def work(client: Client) -> list[GroupDescription]:
        return await client.describe_groups(queue)

    found = connection.run(work)
    now_ms = _now_ms()
    output.rows([{"group": row.name, **_figures(row, now_ms)} for row in found], ("group", *_FIGURES, "paused"))
    # A partition that does not answer says the same of every group.
    for problem in dict.fromkeys(problem for row in found for problem in _problems(row)):
        output.warn(problem)


@group.command(epilog="Example: logbroker group describe orders billing -o json")
@click.argument("queue")
@click.argument("name")
@output_options
@connection_options
def describe(queue: str, name: str, output: Output, connection: Connection) -> None:
    """Show how far behind a consumer group is, as a whole and by partition."""

    async def work(client: Client) -> GroupDescription:
        return await client.describe_group(queue, name)

    found = connection.run(work)
    now_ms = _now_ms()
    whole: Row = {"queue": queue, "group": found.name, **_figures(found, now_ms)}
    partitions: list[Row] = [
        {
            "partition": row.partition,
            **_figures(row, now_ms),
            "oldest_offset": row.oldest_offset,
            "problem": row.problem or None,
        }
        for row in found.partitions
    ]
    if output.format is not Format.TABLE:
        output.one({**whole, "partitions": partitions})
    else:
        output.one({key: value for key, value in whole.items() if key not in _MACHINE_READ})
        print()
        output.rows(partitions, ("partition", *_FIGURES, "oldest_offset", "paused"))
    for problem in _problems(found):
        output.warn(problem)


@group.command(epilog='Example: logbroker group pause orders billing --for 10m --reason "the ledger is down"')
@click.argument("queue")
@click.argument("name", default="default")
@click.option("--reason", default="", metavar="TEXT", help="What `group list` shows, to 256 characters.")
@click.option("--for", "duration", type=DURATION, help="Resume by itself after this; otherwise it stays paused.")
@output_options
@connection_options
def pause(queue: str, name: str, reason: str, duration: int | None, output: Output, connection: Connection) -> None:
    """Deliver nothing to a consumer group for a while. Its consumers wait, and settle what they hold as ever."""

    length = None if duration is None else timedelta(milliseconds=duration)

    async def work(client: Client) -> None:
        await client.pause_group(queue, name, reason=reason, duration=length)

    connection.run(work)
    output.say(f"group {name} of queue {queue} paused")


@group.command(epilog="Example: logbroker group resume orders billing")
@click.argument("queue")
@click.argument("name", default="default")
@output_options
@connection_options
def resume(queue: str, name: str, output: Output, connection: Connection) -> None:
    """Deliver to a paused consumer group again."""

    async def work(client: Client) -> None:
        await client.resume_group(queue, name)

    connection.run(work)
    output.say(f"group {name} of queue {queue} resumed")


@group.command(epilog="Example: logbroker group purge orders billing --yes")
@click.argument("queue")
@click.argument("name", default="default")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@connection_options
def purge(queue: str, name: str, yes: bool, output: Output, connection: Connection) -> None:
    """Settle all that a consumer group has without delivering it, dead messages too.

    Current leases end. The messages stay for the other groups, and a rewind brings them back, until they expire. Every
    partition does it for itself: where some could not, do it again.
    """
    confirm(f"Settle all messages of group {name} of queue {queue}, dead ones too, undelivered?", is_confirmed=yes)

    async def work(client: Client) -> Purged:
        return await client.purge(queue, group=name)

    found = connection.run(work)
    counts: Row = {"purged": found.purged_count, "revoked": found.revoked_count, "dead": found.dead_count}
    output.one({"queue": queue, "group": name, **counts})
    output.say(f"group {name} of queue {queue}: {found.purged_count} messages settled")


@group.command(epilog="Example: logbroker group delete orders billing --yes")
@click.argument("queue")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@connection_options
def delete(queue: str, name: str, yes: bool, output: Output, connection: Connection) -> None:
    """Delete a consumer group with its leases and acks. The messages stay for the other groups."""
    confirm(f"Delete group {name} of queue {queue}, with what it has acked?", is_confirmed=yes)

    async def work(client: Client) -> None:
        await client.delete_group(queue, name)

    connection.run(work)
    output.say(f"group {name} of queue {queue} deleted")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _figures(found: GroupDescription | GroupPartition, now_ms: int) -> Row:
    """Counts and times of a group or of its part; the age is by the clock of this machine."""
    return {
        "lag": found.lag_count,
        "lag_s": found.lag_ms / 1_000,
        "oldest_age_s": max(now_ms - found.oldest_ms, 0) / 1_000 if found.oldest_ms else 0.0,
        "available": found.available,
        "leased": found.leased,
        "delayed": found.delayed,
        "dead": found.dead,
        "oldest_ms": found.oldest_ms,
        "oldest": format_time(found.oldest_ms) if found.oldest_ms else None,
        "is_paused": found.is_paused,
        "paused_reason": found.paused_reason,
        "paused_until_ms": found.paused_until_ms,
        "paused": _pause(found),
    }


def _pause(found: GroupDescription | GroupPartition) -> str | None:
    """The pause in a few words; None where there is none."""
    if not found.is_paused:
        return None
    until = f"until {format_time(found.paused_until_ms)}" if found.paused_until_ms else "until resumed"
    return f"{until}: {found.paused_reason}" if found.paused_reason else until


def _problems(found: GroupDescription) -> list[str]:
    return [f"partition {row.partition}: {row.problem}" for row in found.partitions if row.problem]
