"""`logbroker dead redrive`: bring messages of a dead-letter queue back to where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Output, output_options

if TYPE_CHECKING:
    from logbroker_client import Client, PeekedMessage, RedriveProgress


@final
@dataclass(slots=True)
class Choice:
    """Which messages are wanted. What is not given is not looked at; `matched` counts those that were chosen."""

    cause: str | None = None
    reason: str | None = None
    consumer: str | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    is_dry: bool = False
    matched: int = 0

    def __call__(self, message: PeekedMessage) -> bool:
        history = message.history
        said = (history.cause, history.reason, history.consumer) if history is not None else ("", "", "")
        is_wanted = (
            (self.cause is None or said[0] == self.cause)
            and (self.reason is None or self.reason in said[1])
            and (self.consumer is None or said[2] == self.consumer)
            and all(pair in message.headers for pair in self.headers)
        )
        self.matched += is_wanted
        return is_wanted and not self.is_dry


@click.command(epilog="Example: logbroker dead redrive orders-dead --reason-contains timeout --rate 50")
@click.argument("queue")
@click.option("--to", metavar="QUEUE", help="Where to, for all; otherwise each goes to the queue that it came from.")
@click.option("--cause", type=click.Choice(["rejected", "max_deliveries", "ttl"]), help="Only what died of this.")
@click.option("--reason-contains", metavar="TEXT", help="Only what was given up with such a reason.")
@click.option("--consumer", metavar="NAME", help="Only what this consumer held last.")
@click.option("--header", "headers", multiple=True, metavar="KEY=VALUE", help="Only with this header; repeatable.")
@click.option("-g", "--group", default="default", show_default=True, help="Consumer group whose messages are taken.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="At most so many messages a second.",
)
@click.option("--dry-run", is_flag=True, help="Count what would be moved, and move nothing.")
@output_options
@connection_options
def redrive(
    queue: str,
    to: str | None,
    cause: str | None,
    reason_contains: str | None,
    consumer: str | None,
    headers: tuple[str, ...],
    group: str,
    rate: float,
    dry_run: bool,
    output: Output,
    connection: Connection,
) -> None:
    """Move the messages of a dead-letter queue back to the queues and partitions that they came from.

    Those that are available now are looked at, in their order. It may be ended at any time, and begun again: each
    message is moved once. The rights to rewind QUEUE and to produce in the others are needed.
    """
    pairs = [text.partition("=") for text in headers]
    if not all(key and sign for key, sign, _ in pairs):
        raise click.UsageError("A --header is given as KEY=VALUE.")
    chosen = Choice(
        cause, reason_contains, consumer, tuple([(key, value.encode()) for key, _, value in pairs]), is_dry=dry_run
    )

    def report(progress: RedriveProgress) -> None:
        output.say(f"{_moved(progress, chosen)} moved, {_skipped(progress, chosen)} skipped, {progress.left} left")

    async def work(client: Client) -> RedriveProgress:
        return await client.redrive(
            queue, to=to, group=group, where=chosen, rate=None if dry_run else rate, on_progress=report
        )

    totals = connection.run(work)
    output.one(
        {
            "queue": queue,
            "dry_run": dry_run,
            "moved": _moved(totals, chosen),
            "skipped": _skipped(totals, chosen),
            "left": totals.left,
        }
    )


def _moved(progress: RedriveProgress, chosen: Choice) -> int:
    """In a dry run, what would have been."""
    return chosen.matched if chosen.is_dry else progress.moved


def _skipped(progress: RedriveProgress, chosen: Choice) -> int:
    return progress.skipped - chosen.matched if chosen.is_dry else progress.skipped
