"""Holding the books against the orders, to the cent. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clients.examples.recharge.orders import Order
    from clients.examples.recharge.receipts import Receipt


@final
@dataclass(frozen=True, slots=True)
class Balance:
    """Lists hold ids of orders. Money is in cents."""

    order_count: int
    paid_cents: int
    booking_count: int
    booked_cents: int
    missing: tuple[str, ...]
    """Ordered and not booked."""
    doubled: tuple[str, ...]
    """Booked more than once."""
    unknown: tuple[str, ...]
    """Booked and never ordered."""
    wrong: tuple[str, ...]
    """Booked with another amount or carrier than ordered."""

    @property
    def is_balanced(self) -> bool:
        """Whether each order is booked once, as it was paid, and nothing else is."""
        has_faults = self.missing or self.doubled or self.unknown or self.wrong
        return not has_faults and self.paid_cents == self.booked_cents

    def describe(self) -> str:
        """Say it in one line."""
        if self.is_balanced:
            return "balanced to the cent, each order booked once"
        faults = (
            ("missing", self.missing),
            ("booked twice", self.doubled),
            ("never ordered", self.unknown),
            ("with a wrong amount", self.wrong),
        )
        listed = ", ".join(f"{len(ids):,} {name} (first {ids[0]})" for name, ids in faults if ids)
        return f"NOT BALANCED by {money(self.booked_cents - self.paid_cents)}: {listed or 'amounts differ'}"


def strike_balance(orders: Iterable[Order], bookings: Iterable[Receipt]) -> Balance:
    """Compare all that was paid with all that is booked."""
    paid = {order.id: (order.carrier, order.cents) for order in orders}
    rows = list(bookings)
    counts = Counter(row.order_id for row in rows)
    wrong = {
        row.order_id for row in rows if paid.get(row.order_id, (row.carrier, row.cents)) != (row.carrier, row.cents)
    }
    return Balance(
        order_count=len(paid),
        paid_cents=sum(cents for _, cents in paid.values()),
        booking_count=len(rows),
        booked_cents=sum(row.cents for row in rows),
        missing=tuple(sorted(paid.keys() - counts.keys())),
        doubled=tuple(sorted(order_id for order_id, count in counts.items() if count > 1)),
        unknown=tuple(sorted(counts.keys() - paid.keys())),
        wrong=tuple(sorted(wrong)),
    )


def money(cents: int) -> str:
    """Write cents as a decimal number: 123456 is 1,234.56."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"
