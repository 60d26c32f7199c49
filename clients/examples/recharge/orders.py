"""The real input: a file of orders, one JSON object a line, made from a seed. Money is whole cents, everywhere."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# Carrier and what a customer pays for a recharge, in hundredths of a percent of its face value.
_CARRIERS = (("north", 9_950), ("south", 9_980), ("island", 10_000))
_FACE_CENTS = (1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 30_000)
_PHONE_COUNT = 5_000
# 2026-01-01T08:00:00Z; orders come some tens of milliseconds apart from there on.
_FIRST_MS = 1_767_254_400_000


class OrderFileError(Exception):
    """A line of the file is no order, or one order stands there twice."""


@final
@dataclass(frozen=True, slots=True)
class Order:
    """A customer has paid `cents` to have `face_cents` put on the account of `phone`."""

    id: str
    phone: str
    carrier: str
    face_cents: int
    cents: int
    placed_ms: int

    def encode(self) -> bytes:
        """One line of the file without its end, and the value of the message."""
        fields = {
            "id": self.id,
            "phone": self.phone,
            "carrier": self.carrier,
            "face_cents": self.face_cents,
            "cents": self.cents,
            "placed_ms": self.placed_ms,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, line: bytes) -> Order:
        """Read what `encode` wrote.

        Raises:
            OrderFileError: it is something else, or an amount is not a positive whole number.
        """
        try:
            fields = json.loads(line)
            order = cls(**fields)
        except (ValueError, TypeError) as error:
            raise OrderFileError(f"{line[:80]!r} is no order: {error}") from error
        for name in ("id", "phone", "carrier"):
            value = getattr(order, name)
            if not (isinstance(value, str) and value):
                raise OrderFileError(f"order {order.id!r}: {name} is {value!r}, and should be text")
        for name in ("face_cents", "cents", "placed_ms"):
            value = getattr(order, name)
            # True is an int too, and 10.0 cents are how money gets lost.
            if type(value) is not int or value <= 0:
                raise OrderFileError(f"order {order.id!r}: {name} is {value!r}, and should be a positive whole number")
        return order


def generate(count: int, *, seed: int) -> Iterator[Order]:
    """Give `count` orders; the same ones for the same seed, on any Python."""
    # Of the methods of Random only `random` promises the same numbers in every version.
    draw = random.Random(seed).random
    placed_ms = _FIRST_MS
    for number in range(1, count + 1):
        carrier, rate = _CARRIERS[int(draw() * len(_CARRIERS))]
        face_cents = _FACE_CENTS[int(draw() * len(_FACE_CENTS))]
        placed_ms += int(draw() * 80)
        yield Order(
            id=f"R{seed:04d}-{number:07d}",
            # +999 is no country's, so these are nobody's numbers.
            phone=f"+999{int(draw() * _PHONE_COUNT):08d}",
            carrier=carrier,
            face_cents=face_cents,
            cents=face_cents * rate // 10_000,
            placed_ms=placed_ms,
        )


def write_orders(path: Path, orders: Iterable[Order]) -> None:
    """Write the file anew."""
    with path.open("wb") as file:
        file.writelines(order.encode() + b"\n" for order in orders)


def read_orders(path: Path) -> list[Order]:
    """Read a file of orders; empty lines are skipped.

    Raises:
        OrderFileError: a line is no order, or an id stands there twice; says which line.
    """
    orders: dict[str, Order] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                order = Order.decode(line)
            except OrderFileError as error:
                raise OrderFileError(f"{path.name}, line {number}: {error}") from error
            if order.id in orders:
                raise OrderFileError(f"{path.name}, line {number}: order {order.id} stands there twice")
            orders[order.id] = order
    return list(orders.values())
