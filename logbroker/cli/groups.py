"""`logbroker group`: create, list and delete consumer groups of a queue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Output, confirm, output_options
from logbroker.cli.queues import group_rows
from logbroker.cli.targets import TARGET_FORMS, parse_target

if TYPE_CHECKING:
    from logbroker.wire.requests import QueueDescription
    from logbroker_client import Client


@click.group()
def group() -> None:
    """Create, list and delete consumer groups; `default` is always there."""


@group.command(epilog="Example: logbroker group create orders billing --start -1h")
@click.argument("queue")
@click.argument("name")
@click.option("--start", default="latest", show_default=True, metavar="TARGET", help=f"First message: {TARGET_FORMS}.")
@output_options
@connection_options
def create(queue: str, name: str, start: str, output: Output, connection: Connection) -> None:
    """Create a consumer group, which gets its own copy of every message from START on."""
    position = parse_target(start, queue=queue, now_ms=time.time_ns() // 1_000_000)

    async def work(client: Client) -> None:
        await client.create_group(queue, name, start=position)

    connection.run(work)
    output.say(f"group {name} of queue {queue} created")


@group.command(name="list", epilog="Example: logbroker group list orders -o json")
@click.argument("queue")
@output_options
@connection_options
def list_groups(queue: str, output: Output, connection: Connection) -> None:
    """Show the consumer groups of a queue and how far each is, by partition."""

    async def work(client: Client) -> QueueDescription:
        return await client.describe_queue(queue)

    rows = group_rows(connection.run(work))
    output.rows(rows, ("group", "partition", "available", "leased", "delayed", "dead", "oldest"))


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
