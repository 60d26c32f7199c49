"""`tools/retention`: says what goes, when and why; and changes a retention only when told to with `--yes`."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.admin import DEFAULT_ADMIN_URL, AdminNode
from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.exits import Exit
from logbroker.cli.main import Tool
from logbroker.cli.output import Format, Output, output_options
from logbroker.cli.parameters import DURATION
from logbroker.cli.times import format_duration
from logbroker.config.limits import MAX_RETENTION_MS, MIN_RETENTION_MS
from tools.retention_kit.plan import plan
from tools.retention_kit.report import KEPT_COLUMNS, STEP_COLUMNS, at_once, kept_rows, size, step_rows, values, words
from tools.retention_kit.source import describe, partitions_of, with_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.wire.requests import QueueDescription
    from logbroker_client import Client
    from tools.retention_kit.plan import PartitionPlan

HORIZONS = ("1h", "1d", "7d")

EPILOG = """
Examples: `tools/retention` for all queues, `tools/retention orders --set 2d` to see what that would remove,
`tools/retention orders --set 2d --yes` to do it. Exit codes are those of logbroker; 6: a plan that would change
something was shown and not carried out.
"""


@click.command(cls=Tool, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--set", "wanted_ms", type=DURATION, metavar="DURATION", help="Plan this retention, from 60s to 15d.")
@click.option("-y", "--yes", is_flag=True, help="Carry the plan of --set out: without it nothing is ever changed.")
@click.option(
    "--within",
    "horizons_ms",
    type=DURATION,
    multiple=True,
    default=HORIZONS,
    show_default=True,
    metavar="DURATION",
    help="How far to look ahead; repeatable.",
)
@click.option(
    "--admin-url",
    "admin_urls",
    multiple=True,
    envvar="LOGBROKER_ADMIN_URL",
    default=[DEFAULT_ADMIN_URL],
    show_default=True,
    metavar="URL",
    help="Admin listener of a node whose files are to be counted; repeatable, once for each node.",
)
@output_options
@connection_options
def retention(
    queues: tuple[str, ...],
    wanted_ms: int | None,
    yes: bool,
    horizons_ms: tuple[int, ...],
    admin_urls: tuple[str, ...],
    output: Output,
    connection: Connection,
) -> int:
    """Explain what retention removes, before it does.

    Messages are kept for the retention of their queue, from 60 seconds to 15 days, and go when it is over, acked or
    not. The leader of each partition decides that by its log's own time, and writes it to the log, so all copies
    agree. Rewinds reach back as far as the oldest message that is kept. Disk space comes back by whole files
    (segments), within about a minute after the last message of a file has gone, on every node that has a copy.

    For each partition this shows what is kept, and what is gone within the times of `--within`: messages, space, and
    what of it some consumer group has not settled, which that group loses. Numbers that stand with bounds are
    estimates between messages whose time is known: the first of each file, and the oldest that a group waits for.
    What was written last is in the write-ahead log, which is used again and frees nothing.

    With `--set` it shows what another retention would remove at once. A shorter one cannot be taken back; a longer one
    holds for what is still there.
    """
    _check(queues, wanted_ms, yes=yes)
    found = connection.run(lambda client: _describe(client, queues, output))
    nodes = [AdminNode(url, connection.token, connection.timeout_ms, connection.ca_file) for url in admin_urls]
    now_ms = time.time_ns() // 1_000_000
    warned: set[str] = set()

    def warn(text: str) -> None:
        if text not in warned:
            warned.add(text)
            output.warn(f"sizes are not known: {text}")

    plans: dict[str, list[PartitionPlan]] = {}
    for description in found:
        partitions = with_files(partitions_of(description), nodes, warn=warn)
        plans[description.info.name] = [
            plan(
                partition,
                retention_ms=partition.retention_ms if wanted_ms is None else wanted_ms,
                now_ms=now_ms,
                horizons_ms=horizons_ms,
            )
            for partition in partitions
        ]
    _show(plans, found, wanted_ms, output)
    changing = [one.info.name for one in found if wanted_ms not in (None, one.info.settings.retention_ms)]
    if not changing or wanted_ms is None:
        return Exit.OK
    if not yes:
        output.say("\nNothing was changed. To do it, say it again with --yes.")
        return Exit.DIFFERS
    connection.run(lambda client: _alter(client, changing, wanted_ms))
    output.say(f"\n{', '.join(changing)}: messages are kept for {format_duration(wanted_ms)} from now on.")
    return Exit.OK


def _check(queues: Sequence[str], wanted_ms: int | None, *, yes: bool) -> None:
    if wanted_ms is None:
        if yes:
            raise click.UsageError("--yes carries out --set, which is not there.")
        return
    if not queues:
        raise click.UsageError("--set asks for the names of the queues.")
    if not MIN_RETENTION_MS <= wanted_ms <= MAX_RETENTION_MS:
        raise click.UsageError(
            f"--set is {format_duration(wanted_ms)}; a retention has from {format_duration(MIN_RETENTION_MS)} to "
            f"{format_duration(MAX_RETENTION_MS)}."
        )


async def _describe(client: Client, queues: Sequence[str], output: Output) -> list[QueueDescription]:
    is_shown = sys.stderr.isatty() and not output.is_quiet

    def tell(done: int, count: int, name: str) -> None:
        if is_shown:
            print(f"\r\x1b[Kqueue {done + 1} of {count}: {name}", end="", file=sys.stderr, flush=True)

    found = await describe(client, queues, tell=tell)
    if is_shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return found


async def _alter(client: Client, queues: Sequence[str], retention_ms: int) -> None:
    for name in queues:
        await client.alter_queue(name, retention=timedelta(milliseconds=retention_ms))


def _show(
    plans: dict[str, list[PartitionPlan]], found: Sequence[QueueDescription], wanted_ms: int | None, output: Output
) -> None:
    if output.format is not Format.TABLE:
        output.rows([values(one) for rows in plans.values() for one in rows], ())
        return
    for place, description in enumerate(found):
        rows = plans[description.info.name]
        kept_ms = description.info.settings.retention_ms
        if place:
            print()
        print(f"queue {description.info.name}: messages go {format_duration(kept_ms)} after they came, acked or not")
        output.rows(kept_rows(rows), KEPT_COLUMNS)
        for one in rows:
            if one.partition.problem:
                output.warn(f"partition {one.partition.number}: {one.partition.problem}")
        is_change = wanted_ms not in (None, kept_ms)
        print()
        if is_change and wanted_ms is not None:
            print(f"with {format_duration(wanted_ms)} in place of {format_duration(kept_ms)}:")
        output.rows(step_rows(rows, is_change=is_change), STEP_COLUMNS)
        if is_change:
            _sum_up(rows)


def _sum_up(rows: Sequence[PartitionPlan]) -> None:
    total = at_once(rows)
    if total is None or not total.messages.most:
        print("\nat once nothing goes")
        return
    freed = ", ".join([f"{size(count)} on node {node}" for node, count in sorted(total.freed_bytes.items())])
    print(f"\nat once: {words(total.messages)} messages" + (f", which frees {freed}" if freed else ""))
    for name, count in total.unsettled.items():
        if count.most:
            print(f"group {name} would lose {words(count)} messages that it has not settled")


def main() -> None:
    retention.main(prog_name="tools/retention")
