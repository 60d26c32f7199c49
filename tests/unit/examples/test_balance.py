"""The balance: it is struck only if every order is booked once, to the cent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clients.examples.recharge.balance import money, strike_balance
from clients.examples.recharge.orders import Order, generate
from clients.examples.recharge.receipts import Receipt

ORDERS = list(generate(60, seed=1))
FIRST = ORDERS[0]


def receipt(order: Order) -> Receipt:
    return Receipt(order.id, order.carrier, order.cents)


RIGHT = [receipt(order) for order in ORDERS]


def test_books_with_every_order_once_balance() -> None:
    found = strike_balance(ORDERS, reversed(RIGHT))
    assert found.is_balanced
    assert found.booked_cents == found.paid_cents == sum(order.cents for order in ORDERS)
    assert found.describe() == "balanced to the cent, each order booked once"


def test_a_missing_order_unbalances_the_books_and_is_named() -> None:
    found = strike_balance(ORDERS, RIGHT[1:])
    assert not found.is_balanced
    assert found.missing == (FIRST.id,)
    assert found.describe() == f"NOT BALANCED by {money(-FIRST.cents)}: 1 missing (first {FIRST.id})"


def test_an_order_booked_twice_unbalances_the_books() -> None:
    found = strike_balance(ORDERS, [*RIGHT, RIGHT[0]])
    assert not found.is_balanced
    assert found.doubled == (FIRST.id,)
    assert found.booked_cents - found.paid_cents == FIRST.cents


def test_an_order_booked_twice_in_place_of_another_of_the_same_amount_unbalances_the_books() -> None:
    same = next(order for order in ORDERS[1:] if order.cents == FIRST.cents)
    found = strike_balance(ORDERS, [RIGHT[0] if row.order_id == same.id else row for row in RIGHT])
    assert found.paid_cents == found.booked_cents
    assert not found.is_balanced
    assert (found.missing, found.doubled) == ((same.id,), (FIRST.id,))


def test_a_booking_without_an_order_unbalances_the_books() -> None:
    found = strike_balance(ORDERS, [*RIGHT, Receipt("R9", "north", 1)])
    assert not found.is_balanced
    assert found.unknown == ("R9",)


@pytest.mark.parametrize("other", [replace(RIGHT[0], cents=FIRST.cents + 1), replace(RIGHT[0], carrier="moon")])
def test_a_booking_that_differs_from_its_order_unbalances_the_books(other: Receipt) -> None:
    found = strike_balance(ORDERS, [other, *RIGHT[1:]])
    assert not found.is_balanced
    assert found.wrong == (FIRST.id,)


def test_two_wrong_amounts_that_add_up_do_not_balance() -> None:
    shifted = [replace(RIGHT[0], cents=RIGHT[0].cents + 1), replace(RIGHT[1], cents=RIGHT[1].cents - 1), *RIGHT[2:]]
    found = strike_balance(ORDERS, shifted)
    assert found.paid_cents == found.booked_cents
    assert not found.is_balanced


@pytest.mark.parametrize(
    ("cents", "text"), [(0, "0.00"), (5, "0.05"), (123456, "1,234.56"), (-5, "-0.05"), (-100000000, "-1,000,000.00")]
)
def test_money_is_written_without_ever_being_a_float(cents: int, text: str) -> None:
    assert money(cents) == text
