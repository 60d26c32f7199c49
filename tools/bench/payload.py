"""The messages that every system is given: JSON of an exact size, the same bytes in every run.

A message of at least 64 bytes is `{"id":"<16 hex>","ts":"<16 hex>","k":"<filler>", ...}`. Bytes 7..22 are its number
and 31..46 the time of sending, CLOCK_MONOTONIC in ns, both set by the sender, so that a receiver needs no JSON. The
rest is an order event from a fixed seed, about 2.3:1 under zstd alone and 3.7:1 in batches; of the kind `random` it is
random bytes in base64.
"""

from __future__ import annotations

import base64
import json
import random
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind = Literal["json", "random"]

SEED = 20240607
POOL_COUNT = 4096
MIN_SIZE_BYTES = 64

# The head of a message is what `stamp` writes; behind it comes what the pool holds.
_ID_PART = b'{"id":"%016x"'
_TIME_PART = b',"ts":"%016x"'
_HEAD = _ID_PART + _TIME_PART
HEAD_BYTES = len(_HEAD % (0, 0))
_NUMBER = slice(7, 23)
_TIME = slice(31, 47)

_CITIES = ("Shenzhen", "Guangzhou", "Beijing", "Shanghai", "Chengdu", "Nanjing", "Wuhan", "Hangzhou", "Xian", "Tianjin")
_STATES = ("created", "paid", "packed", "shipped", "delivered", "refunded", "cancelled")
_ITEMS = tuple(f"sku-{number:05d}" for number in range(0, 40_000, 37))


def pool(size_bytes: int, kind: Kind = "json", *, count: int = POOL_COUNT, seed: int = SEED) -> list[bytes]:
    """Make `count` distinct messages of `size_bytes`; senders go round them."""
    if size_bytes < MIN_SIZE_BYTES:
        raise ValueError(f"a message of {size_bytes} bytes has no room for its head: at least {MIN_SIZE_BYTES}")
    chance = random.Random(f"{seed}/{size_bytes}/{kind}")
    make = _random_message if kind == "random" else _order_event
    return [make(chance, size_bytes) for _ in range(count)]


def tails(messages: Sequence[bytes]) -> list[bytes]:
    """Cut off what `stamp` writes anew for each sending."""
    return [message[HEAD_BYTES:] for message in messages]


def stamp(tail: bytes, number: int, sent_ns: int) -> bytes:
    """Give the message of this tail with its number and the time of sending."""
    return _HEAD % (number, sent_ns) + tail


def stamp_many(ends: Sequence[bytes], start: int, count: int, sent_ns: int) -> list[bytes]:
    """Give messages `start` to `start + count`, of one time of sending, with these tails in turn; as `stamp` each."""
    time = _TIME_PART % sent_ns
    distinct_count = len(ends)
    return [_ID_PART % number + time + ends[number % distinct_count] for number in range(start, start + count)]


def number_of(message: bytes) -> int:
    return int(message[_NUMBER], 16)


def sent_ns_of(message: bytes) -> int:
    return int(message[_TIME], 16)


def _random_message(chance: random.Random, size_bytes: int) -> bytes:
    head = _HEAD.decode() % (0, 0) + ',"k":"'
    return f'{head}{_filler(chance, size_bytes - len(head) - 2)}"}}'.encode()


def _order_event(chance: random.Random, size_bytes: int) -> bytes:
    """As many fields as fit, and filler in `k` for the rest."""
    head = _HEAD.decode() % (0, 0) + ',"k":"'
    fields: list[str] = []
    taken = 0
    for position, (name, value) in enumerate(_fields(chance)):
        field = f',"{name}{position}":{json.dumps(value, separators=(",", ":"))}'
        if len(head) + 10 + taken + len(field) > size_bytes:
            break
        fields.append(field)
        taken += len(field)
    filler = _filler(chance, size_bytes - len(head) - taken - 2)
    return f'{head}{filler}"{"".join(fields)}}}'.encode()


def _filler(chance: random.Random, size: int) -> str:
    return base64.b64encode(chance.randbytes(size)).decode()[:size]


def _fields(chance: random.Random) -> Iterator[tuple[str, object]]:
    # Every draw counts: the order of these lines makes the bytes.
    yield "type", f"order.{chance.choice(_STATES)}"
    yield "user", f"u{chance.randrange(10**10):010d}"
    yield "city", chance.choice(_CITIES)
    yield "trace", f"{chance.getrandbits(128):032x}"
    while True:
        yield (
            "item",
            {
                "sku": chance.choice(_ITEMS),
                "qty": chance.randrange(1, 9),
                "price": round(chance.uniform(1, 500), 2),
                "tag": f"{chance.getrandbits(32):08x}",
            },
        )
