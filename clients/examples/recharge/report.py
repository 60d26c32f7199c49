"""What a run shows: lines and a live table on the way, and the table at the end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clients.examples.recharge.balance import money

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rich.console import Console

    from clients.examples.recharge.progress import Progress
    from clients.examples.recharge.story import Outcome

_REDRAW_S = 0.2
_LINE_S = 2.0


@asynccontextmanager
async def showing(console: Console, progress: Progress) -> AsyncIterator[Callable[[str], None]]:
    """Show the counts for the time of the block, and give a function that prints a line between them."""
    started_at = trio.current_time()

    def tell(text: str) -> None:
        elapsed_s = trio.current_time() - started_at
        console.print(Text.assemble((f"{elapsed_s:6.1f} s", "dim"), "  ", text), soft_wrap=True)

    async with trio.open_nursery() as nursery:
        if console.is_terminal:
            nursery.start_soon(_redraw, console, progress)
        else:
            nursery.start_soon(_print_lines, progress, tell)
        yield tell
        nursery.cancel_scope.cancel()


async def _redraw(console: Console, progress: Progress) -> None:
    # Its own refreshing would be a thread.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(_bars(progress), refresh=True)
            await trio.sleep(_REDRAW_S)


def _bars(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, count in (
        ("orders confirmed", progress.confirmed),
        ("delivered", progress.delivered),
        ("settled", progress.settled),
        ("booked", progress.booked),
    ):
        bar = ProgressBar(total=progress.order_count, completed=count, width=40)
        table.add_row(name, bar, f"{count:,} of {progress.order_count:,}")
    return table


async def _print_lines(progress: Progress, tell: Callable[[str], None]) -> None:
    while True:
        await trio.sleep(_LINE_S)
        tell(
            f"confirmed {progress.confirmed:,}  delivered {progress.delivered:,}"
            f"  settled {progress.settled:,}  booked {progress.booked:,}"
        )


def report(outcome: Outcome, progress: Progress) -> Table:
    """The table at the end."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows(outcome, progress):
        table.add_row(name, value)
    return table


def rows(outcome: Outcome, progress: Progress) -> list[tuple[str, str]]:
    """The table's rows as text."""
    kill, replay = outcome.kill, outcome.replay
    found = [
        ("orders", f"{outcome.after.order_count:,}, paid {money(outcome.after.paid_cents)}"),
        ("confirmed", f"{progress.confirmed:,}" + _beside(progress.sent_again, "sent again, outcome unknown")),
        ("redelivered", f"{progress.redelivered:,}" + _beside(progress.lost_acks, "acks lost or late")),
        (
            "duplicates absorbed",
            f"{progress.absorbed:,}" + (_beside(replay.absorbed, "of the rewind") if replay is not None else ""),
        ),
        ("from kill to the next confirm", "nobody was killed" if kill is None else f"{kill.confirm_s:.2f} s"),
        ("killed node ready again after", "-" if kill is None else f"{kill.back_s:.1f} s"),
        ("acked by the bad build", f"{progress.unbooked:,}, books short by {_short(outcome)}"),
        ("messages rewound", "none" if replay is None else f"{replay.moved:,}"),
        ("booked", f"{outcome.after.booking_count:,}, together {money(outcome.after.booked_cents)}"),
        ("balance", outcome.after.describe()),
    ]
    if outcome.stalled:
        found.append(("stalled", outcome.stalled))
    return found


def _beside(count: int, what: str) -> str:
    return f" ({count:,} {what})" if count else ""


def _short(outcome: Outcome) -> str:
    return money(outcome.before.paid_cents - outcome.before.booked_cents)
