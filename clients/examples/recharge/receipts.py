"""What delivery tells settlement: this order is done, and this much is to be booked for its carrier."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    order_id: str
    carrier: str
    cents: int

    def encode(self) -> bytes:
        fields = {"order_id": self.order_id, "carrier": self.carrier, "cents": self.cents}
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Read what `encode` wrote.

        Raises:
            ValueError: it is something else.
        """
        match json.loads(data):
            case {"order_id": str(order_id), "carrier": str(carrier), "cents": int(cents)} if not isinstance(
                cents, bool
            ):
                return cls(order_id, carrier, cents)
        raise ValueError(f"{data[:80]!r} is no receipt")
