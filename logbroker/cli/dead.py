"""`logbroker dead`: look at messages that were given up, and bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Output, confirm, output_options
from logbroker.cli.redrive import redrive
from logbroker.cli.times import format_time

if TYPE_CHECKING:
    from logbroker_client import Client, DeadMessages


@click.group()
def dead() -> None:
    """List, revive and redrive dead messages: rejected, failed as often as their queue allows, or too old for it.

    Where a queue has a dead-letter queue they are moved there: `peek` shows them there, `redrive` brings them back.
    """


dead.add_command(redrive)


@dead.command(name="list", epilog="Example: logbroker dead list orders -o ndjson")
@click.argument("queue")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group that gave them up.")
@click.option("-n", "--count", type=click.IntRange(1), default=1_000, show_default=True, help="At most so many rows.")
@output_options
@connection_options
def list_dead(queue: str, group: str, count: int, output: Output, connection: Connection) -> None:
    """Show the dead messages of a queue: where they are, why they died, and who held them last."""

    async def work(client: Client) -> list[DeadMessages]:
        return await client.dead(queue, group=group, max_count=count)

    rows = [
        {
            "partition": found.partition,
            "start": found.start,
            "end": found.end,
            "deliveries": found.deliveries,
            "cause": found.cause,
            "reason": found.reason,
            "consumer": found.consumer,
            "buried_at_ms": found.buried_at_ms,
            "buried": format_time(found.buried_at_ms),
        }
        for found in connection.run(work)
    ]
    output.rows(rows, ("partition", "start", "end", "deliveries", "cause", "reason", "consumer", "buried"))


@dead.command(epilog="Example: logbroker dead revive orders orders/0/12 orders/0/15 --yes")
@click.argument("queue")
@click.argument("messages", nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All that are dead now.")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group that gave them up.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@connection_options
def revive(
    queue: str,
    messages: tuple[str, ...],
    every: bool,
    group: str,
    yes: bool,
    output: Output,
    connection: Connection,
) -> None:
    """Have dead messages delivered again, as if they had never been."""
    from logbroker_client import MessageId

    if every == bool(messages):
        raise click.UsageError("Give the messages to revive, as QUEUE/PARTITION/OFFSET, or --all.")
    chosen = None if every else [MessageId.parse(text) for text in messages]
    what = "All dead messages" if chosen is None else f"{len(chosen)} messages"
    confirm(f"{what} of queue {queue} are delivered again to group {group}. Go on?", is_confirmed=yes)

    async def work(client: Client) -> int:
        return await client.revive(queue, group=group, messages=chosen)

    count = connection.run(work)
    output.say(f"{count} messages revived")
