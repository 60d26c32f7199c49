"""Orders: the same file for the same seed, and no file that is not what it should be."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clients.examples.recharge.orders import Order, OrderFileError, generate, read_orders, write_orders

if TYPE_CHECKING:
    from pathlib import Path

ORDER = Order(id="R1", phone="+99900000001", carrier="north", face_cents=1000, cents=995, placed_ms=1)


def test_a_seed_makes_the_same_file_on_every_machine_and_python(tmp_path: Path) -> None:
    path = tmp_path / "orders.ndjson"
    write_orders(path, generate(1000, seed=1))
    assert (
        hashlib.sha256(path.read_bytes()).hexdigest()
        == "9e700cefca016707860a77578a0e40bc15a0405a101c8d84a90a7576f4505802"
    )


def test_another_seed_makes_other_orders() -> None:
    assert list(generate(50, seed=1)) != list(generate(50, seed=2))


def test_more_orders_begin_with_the_same_ones() -> None:
    assert list(generate(100, seed=3))[:40] == list(generate(40, seed=3))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "orders.ndjson"
    orders = list(generate(300, seed=5))
    write_orders(path, orders)
    assert read_orders(path) == orders


def test_amounts_are_whole_cents_and_never_above_the_face_value() -> None:
    orders = list(generate(2000, seed=1))
    assert all(type(order.cents) is int and 0 < order.cents <= order.face_cents for order in orders)
    # 99.5 % of 10.00, rounded down and not away.
    assert {order.cents for order in orders if order.face_cents == 1000 and order.carrier == "north"} == {995}


def test_an_order_that_stands_there_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "orders.ndjson"
    write_orders(path, [ORDER, replace(ORDER, id="R2"), ORDER])
    with pytest.raises(OrderFileError, match="line 3: order R1 stands there twice"):
        read_orders(path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "is no order"),
        (b"[]", "is no order"),
        (b'{"id":"R1"}', "is no order"),
        (ORDER.encode().replace(b"995", b"9.95"), "cents is 9.95"),
        (ORDER.encode().replace(b"995", b"true"), "cents is True"),
        (ORDER.encode().replace(b"995", b"-995"), "cents is -995"),
        (ORDER.encode().replace(b"995", b"0"), "cents is 0"),
        (ORDER.encode().replace(b'"R1"', b'""'), "id is ''"),
    ],
)
def test_a_line_that_is_no_order_is_refused_with_its_place(tmp_path: Path, line: bytes, fault: str) -> None:
    path = tmp_path / "orders.ndjson"
    path.write_bytes(ORDER.encode().replace(b"R1", b"R0") + b"\n\n" + line + b"\n")
    with pytest.raises(OrderFileError, match="line 3: ") as raised:
        read_orders(path)
    assert fault in str(raised.value)
