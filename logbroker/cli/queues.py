"""`logbroker queue`: create, list, describe, alter and delete queues."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Format, Output, confirm, output_options
from logbroker.cli.parameters import DURATION
from logbroker.cli.queue_options import given_options, option_rows, queue_options
from logbroker.cli.times import format_duration, format_time

if TYPE_CHECKING:
    from logbroker.cli.output import Row
    from logbroker.wire.requests import PartitionDescription, QueueDescription, QueueInfo
    from logbroker_client import Client


@click.group()
def queue() -> None:
    """Create, list, describe, alter and delete queues."""


@queue.command(name="create", epilog="Example: logbroker queue create orders --partitions 4 --retention 15d --hide 2m")
@click.argument("name")
@click.option(
    "--partitions", type=click.IntRange(1), default=1, show_default=True, help="May grow later, never shrink."
)
@click.option("--retention", type=DURATION, default="4d", show_default=True, help="From 60s to 15d, acked or not.")
@click.option("--hide", type=DURATION, default="30s", show_default=True, help="How long a received message is hidden.")
@click.option("--max-wait", type=DURATION, default="30s", show_default=True, help="Longest wait of a receive.")
@click.option("--max-deliveries", type=click.IntRange(0, 1_000), default=0, help="Then a message is dead; 0: never.")
@queue_options
@click.option("--if-missing", is_flag=True, help="It is no error if the queue exists.")
@output_options
@connection_options
def create(
    name: str,
    partitions: int,
    retention: int,
    hide: int,
    max_wait: int,
    max_deliveries: int,
    if_missing: bool,
    output: Output,
    connection: Connection,
    **options: object,
) -> None:
    """Create a queue."""
    from logbroker.errors import AlreadyExistsError

    async def work(client: Client) -> None:
        try:
            await client.create_queue(
                name,
                partitions=partitions,
                retention=timedelta(milliseconds=retention),
                hide=hide / 1000,
                max_wait=max_wait / 1000,
                max_deliveries=max_deliveries,
                **given_options(options),
            )
        except AlreadyExistsError:
            if not if_missing:
                raise
            output.say(f"queue {name} exists")
        else:
            output.say(f"queue {name} created")

    connection.run(work)
    if output.format is not Format.TABLE:
        output.one({"name": name})


@queue.command(name="list", epilog="Example: logbroker queue list -o json")
@output_options
@connection_options
def list_queues(output: Output, connection: Connection) -> None:
    """List the queues that the token may see."""

    async def work(client: Client) -> list[QueueInfo]:
        return await client.list_queues()

    rows = [_settings(info) for info in connection.run(work)]
    output.rows(rows, ("name", "partitions", "retention", "hide", "max_wait"))


@queue.command(epilog="Example: logbroker queue describe orders")
@click.argument("name")
@output_options
@connection_options
def describe(name: str, output: Output, connection: Connection) -> None:
    """Show a queue's settings, partitions and consumer groups, as their leaders know them now."""

    async def work(client: Client) -> QueueDescription:
        return await client.describe_queue(name)

    found = connection.run(work)
    partitions = [_partition(row) for row in found.partitions]
    groups = group_rows(found)
    if output.format is not Format.TABLE:
        output.one({**_settings(found.info), "partition_list": partitions, "groups": groups})
        return
    output.one(_settings(found.info))
    print()
    output.rows(partitions, ("partition", "leader", "term", "log_start", "log_end", "last_append", "replicas"))
    print()
    output.rows(groups, ("group", "partition", "available", "leased", "delayed", "dead", "oldest"))
    for row in found.partitions:
        if row.problem:
            output.warn(f"partition {row.partition}: {row.problem}")


@queue.command(epilog="Example: logbroker queue alter orders --partitions 8 --retention 7d")
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1), help="At least as many as there are.")
@click.option("--retention", type=DURATION, help="From 60s to 15d; a shorter one takes effect at once.")
@click.option("--hide", type=DURATION, help="How long a received message is hidden.")
@click.option("--max-wait", type=DURATION, help="Longest wait of a receive.")
@click.option("--max-deliveries", type=click.IntRange(0, 1_000), help="Then a message is dead; 0: never.")
@queue_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask before messages are lost to a retention.")
@output_options
@connection_options
def alter(
    name: str,
    partitions: int | None,
    retention: int | None,
    hide: int | None,
    max_wait: int | None,
    max_deliveries: int | None,
    yes: bool,
    output: Output,
    connection: Connection,
    **options: object,
) -> None:
    """Change settings of a queue; what is not given stays."""
    changed = given_options(options)
    if partitions is retention is hide is max_wait is max_deliveries is None and not changed:
        raise click.UsageError("Nothing to change: give --partitions, --retention, or another option.")
    if retention is not None:
        kept = format_duration(retention)
        confirm(f"Messages of queue {name} older than {kept} are removed for good. Go on?", is_confirmed=yes)

    async def work(client: Client) -> None:
        await client.alter_queue(
            name,
            partitions=partitions,
            retention=None if retention is None else timedelta(milliseconds=retention),
            hide=None if hide is None else hide / 1000,
            max_wait=None if max_wait is None else max_wait / 1000,
            max_deliveries=max_deliveries,
            **changed,
        )

    connection.run(work)
    output.say(f"queue {name} altered")


@queue.command(epilog="Example: logbroker queue delete orders --yes")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@connection_options
def delete(name: str, yes: bool, output: Output, connection: Connection) -> None:
    """Delete a queue with all its messages, for good."""
    confirm(f"Delete queue {name} with all its messages?", is_confirmed=yes)

    async def work(client: Client) -> None:
        await client.delete_queue(name)

    connection.run(work)
    output.say(f"queue {name} deleted")


def group_rows(found: QueueDescription) -> list[Row]:
    """A row for each consumer group and partition."""
    return [
        {
            "group": counts.name,
            "partition": partition.partition,
            "available": counts.available,
            "leased": counts.leased,
            "delayed": counts.delayed,
            "acked_ahead": counts.acked_ahead,
            "dead": counts.dead,
            "moved": counts.moved,
            "oldest_offset": counts.oldest_offset,
            "oldest_ms": counts.oldest_ms,
            "oldest": format_time(counts.oldest_ms) if counts.oldest_ms else None,
        }
        for partition in found.partitions
        for counts in partition.groups
    ]


def _settings(info: QueueInfo) -> dict[str, object]:
    settings = info.settings
    return {
        "name": info.name,
        "partitions": settings.partitions,
        "retention": format_duration(settings.retention_ms),
        "hide": format_duration(settings.hide_ms),
        "max_wait": format_duration(settings.max_wait_ms),
        "max_deliveries": settings.max_delivery_count or None,
        "retention_ms": settings.retention_ms,
        "hide_ms": settings.hide_ms,
        "max_wait_ms": settings.max_wait_ms,
        **option_rows(settings),
    }


def _partition(row: PartitionDescription) -> dict[str, object]:
    return {
        "partition": row.partition,
        "leader": row.leader or None,
        "term": row.term,
        "log_start": row.log_start,
        "log_end": row.log_end,
        "append_ms": row.append_ms,
        "last_append": format_time(row.append_ms) if row.append_ms else None,
        "replicas": [f"{replica.node}:{replica.role}" for replica in row.replicas],
        "problem": row.problem,
    }
