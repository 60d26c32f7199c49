"""The books take each order once, whatever they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients.examples.recharge.ledger import Booked, Ledger, LedgerError, open_ledger
from clients.examples.recharge.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE, TWO = Receipt("R1", "north", 995), Receipt("R2", "south", 1996)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path) as opened:
        yield opened


def test_a_receipt_that_comes_again_changes_nothing(ledger: Ledger) -> None:
    assert ledger.book([ONE, TWO]) == Booked(new=2, absorbed=0)
    assert ledger.book([ONE]) == Booked(new=0, absorbed=1)
    assert ledger.bookings() == [ONE, TWO]


def test_a_receipt_that_comes_twice_at_once_is_booked_once(ledger: Ledger) -> None:
    assert ledger.book([ONE, ONE]) == Booked(new=1, absorbed=1)
    assert ledger.bookings() == [ONE]


def test_bookings_are_there_after_the_books_were_closed(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.book([ONE])
    with open_ledger(path) as ledger:
        assert ledger.book([ONE, TWO]) == Booked(new=1, absorbed=1)
        assert ledger.bookings() == [ONE, TWO]


def test_bookings_are_there_for_another_process_as_soon_as_book_returns(ledger: Ledger, path: Path) -> None:
    ledger.book([ONE])
    with open_ledger(path) as other:
        assert other.bookings() == [ONE]


@pytest.mark.parametrize("other", [Receipt("R1", "north", 996), Receipt("R1", "south", 995)])
def test_the_same_order_with_another_booking_is_refused_and_nothing_beside_it_is_booked(
    ledger: Ledger, other: Receipt
) -> None:
    ledger.book([ONE])
    with pytest.raises(LedgerError, match="order R1 is booked as"):
        ledger.book([TWO, other])
    assert ledger.bookings() == [ONE]
    assert ledger.book([TWO]) == Booked(new=1, absorbed=0)


def test_a_receipt_is_read_as_it_was_written() -> None:
    assert Receipt.decode(ONE.encode()) == ONE


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"order_id":"R1","carrier":"north"}', ONE.encode().replace(b"995", b"9.95")]
)
def test_a_message_that_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"is no receipt|Expecting value"):
        Receipt.decode(data)
