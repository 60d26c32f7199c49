"""`logbroker rewind` and `skip-to`: move a consumer group back or forward in time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Format, Output, confirm, output_options
from logbroker.cli.targets import TARGET_FORMS, parse_target
from logbroker.cli.times import format_time

if TYPE_CHECKING:
    from logbroker.wire.requests import Rewound
    from logbroker_client import Client

_COLUMNS = ("partition", "requested", "start_offset", "start", "moved", "clamped")


@click.command()
@click.argument("queue")
@click.option("--to", "target", required=True, metavar="TARGET", help=f"{TARGET_FORMS}.")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group to move.")
@click.option("--clamp", is_flag=True, help="If the target is no longer retained, start at what is.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@connection_options
def rewind(queue: str, target: str, group: str, clamp: bool, yes: bool, output: Output, connection: Connection) -> None:
    """Deliver everything from TARGET on again, acked or not.

    Messages before TARGET stay as they are. Current leases from TARGET on are revoked. Either all partitions follow or
    none does, also when nodes fail meanwhile.

    Examples:

    \b
      logbroker rewind orders --to -2h
      logbroker rewind orders --to "2026-11-23 09:30" --group billing --yes -o json
      logbroker rewind orders --to earliest --clamp
    """
    _move(queue, target, group, output, connection, clamp=clamp, yes=yes, direction="rewind")


@click.command(name="skip-to")
@click.argument("queue")
@click.option("--to", "target", required=True, metavar="TARGET", help=f"{TARGET_FORMS}.")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group to move.")
@click.option("--clamp", is_flag=True, help="If the target is beyond the log, go to its end.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@connection_options
def skip_to(
    queue: str, target: str, group: str, clamp: bool, yes: bool, output: Output, connection: Connection
) -> None:
    """Settle everything before TARGET without delivering it.

    Examples:

    \b
      logbroker skip-to orders --to latest --yes
      logbroker skip-to orders --to -15m --group billing
    """
    _move(queue, target, group, output, connection, clamp=clamp, yes=yes, direction="skip")


def _move(
    queue: str,
    target: str,
    group: str,
    output: Output,
    connection: Connection,
    *,
    clamp: bool,
    yes: bool,
    direction: Literal["rewind", "skip"],
) -> None:
    position = parse_target(target, queue=queue, now_ms=time.time_ns() // 1_000_000)
    where = f"group {group} of queue {queue}"
    if direction == "rewind":
        confirm(f"Rewind {where} to {target}, so that everything from there on is delivered again?", is_confirmed=yes)
    else:
        confirm(f"Skip {where} to {target}, so that nothing before it is delivered?", is_confirmed=yes)

    async def work(client: Client) -> Rewound:
        move = client.rewind if direction == "rewind" else client.skip_to
        return await move(queue, to=position, group=group, clamp=clamp)

    found = connection.run(work)
    rows = [
        {
            "partition": row.partition,
            "requested": row.requested,
            "start_offset": row.start_offset,
            "start_ms": row.start_ms,
            "start": format_time(row.start_ms) if row.start_ms else None,
            "moved": row.moved_count,
            "clamped": row.clamped,
        }
        for row in found.partitions
    ]
    if output.format is Format.TABLE:
        output.rows(rows, _COLUMNS)
    else:
        output.one({"rewind_id": found.rewind_id, "pending": found.pending, "partitions": rows})
    if found.pending:
        output.warn(f"{found.rewind_id} is decided, and not yet carried out everywhere; it will be")
    output.say(f"{where}: {sum(row.moved_count for row in found.partitions)} messages moved")
