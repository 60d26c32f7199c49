"""What a run shows."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
import trio
from rich.console import Console

from clients.examples.recharge.balance import strike_balance
from clients.examples.recharge.orders import generate
from clients.examples.recharge.progress import Progress
from clients.examples.recharge.receipts import Receipt
from clients.examples.recharge.report import report, rows, showing
from clients.examples.recharge.story import Kill, Outcome, Replay

ORDERS = list(generate(10, seed=1))
RECEIPTS = [Receipt(order.id, order.carrier, order.cents) for order in ORDERS]
WHOLE, SHORT = strike_balance(ORDERS, RECEIPTS), strike_balance(ORDERS, RECEIPTS[2:])


def outcome(*, is_good: bool) -> Outcome:
    return Outcome(
        before=SHORT,
        after=WHOLE if is_good else SHORT,
        kill=Kill(node=2, partition=1, confirm_s=0.123, back_s=2.5),
        replay=Replay(to=datetime(2026, 11, 23, tzinfo=UTC), moved=6, absorbed=4),
        stalled="" if is_good else "nothing moved for 60 s while waiting for the rewind",
    )


def test_the_table_says_what_happened() -> None:
    progress = Progress(10, confirmed=10, absorbed=5, redelivered=3, lost_acks=1, unbooked=2)
    assert rows(outcome(is_good=True), progress)[1:] == [
        ("confirmed", "10"),
        ("redelivered", "3 (1 acks lost or late)"),
        ("duplicates absorbed", "5 (4 of the rewind)"),
        ("from kill to the next confirm", "0.12 s"),
        ("killed node ready again after", "2.5 s"),
        ("acked by the bad build", f"2, books short by {(WHOLE.paid_cents - SHORT.booked_cents) / 100:,.2f}"),
        ("messages rewound", "6"),
        ("booked", f"10, together {WHOLE.paid_cents / 100:,.2f}"),
        ("balance", "balanced to the cent, each order booked once"),
    ]


def test_a_run_that_went_wrong_cannot_be_mistaken_for_a_good_one() -> None:
    found = outcome(is_good=False)
    assert not found.is_good
    screen = io.StringIO()
    Console(file=screen, width=200).print(report(found, Progress(10)))
    assert "NOT BALANCED" in screen.getvalue()
    assert "nothing moved for 60 s" in screen.getvalue()


def test_balanced_books_of_a_run_that_stalled_are_no_success() -> None:
    assert not Outcome(WHOLE, WHOLE, None, None, "nothing moved for 60 s").is_good


@pytest.mark.parametrize("is_terminal", [False, True])
async def test_lines_are_told_as_they_are_while_counts_are_shown(
    autojump_clock: trio.testing.MockClock, is_terminal: bool
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=200)
    progress = Progress(10)
    async with showing(console, progress) as tell:
        progress.confirmed = 7
        tell("node [3] is back")
        await trio.sleep(2.5)
    assert "0.0 s  node [3] is back" in screen.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert ("7 of 10" if is_terminal else "confirmed 7  delivered 0") in screen.getvalue()
