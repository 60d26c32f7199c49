"""The books: one SQLite file that takes each order once, however often it is told of it.

This is the half of "at least once, with an effect once" that no queue can do for its consumer.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from clients.examples.recharge.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class LedgerError(Exception):
    """The books cannot take what they are told to."""


@final
@dataclass(frozen=True, slots=True)
class Booked:
    """What became of some receipts: `absorbed` are those that were in the books already."""

    new: int
    absorbed: int


@final
class Ledger:
    """Open books; made by `open_ledger`. May be used by any thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def book(self, receipts: Iterable[Receipt]) -> Booked:
        """Book receipts together; they are on disk when it returns. What is booked already changes nothing.

        Raises:
            LedgerError: an order is booked already with another amount or carrier. None of them is booked then.
        """
        new = absorbed = 0
        with self._transaction():
            for receipt in receipts:
                row = (receipt.order_id, receipt.carrier, receipt.cents)
                if self._connection.execute("INSERT OR IGNORE INTO bookings VALUES (?, ?, ?)", row).rowcount:
                    new += 1
                    continue
                absorbed += 1
                known = self._connection.execute("SELECT * FROM bookings WHERE order_id = ?", row[:1]).fetchone()
                if known != row:
                    raise LedgerError(f"order {receipt.order_id} is booked as {known[1:]}, and cannot become {row[1:]}")
        return Booked(new, absorbed)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def bookings(self) -> list[Receipt]:
        """Everything in the books."""
        return [Receipt(*row) for row in self._connection.execute("SELECT * FROM bookings ORDER BY order_id")]


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Open the books at `path`, made if there are none, for the time of the block."""
    # Autocommit: transactions begin where `book` says so. Booking happens in worker threads.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A booking is on disk before its message is acked.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS bookings"
            " (order_id TEXT PRIMARY KEY, carrier TEXT NOT NULL, cents INTEGER NOT NULL) WITHOUT ROWID"
        )
        yield Ledger(connection)
    finally:
        connection.close()
