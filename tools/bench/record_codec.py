"""What it costs to make, check and open a record batch. Run with `python -m tools.bench.record_codec`.

Prints CPU microseconds, each the median of several runs: for a record where it is made or opened, for a batch where
the broker handles it unopened.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING

from logbroker.ids import Offset
from logbroker.record.batch import (
    BatchLimits,
    Codec,
    Record,
    check_batch,
    decode_batch,
    encode_batch,
    encode_values,
    stamp,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 9
RUN_SECONDS = 0.05
LIMITS = BatchLimits(max_batch_bytes=4 << 20)
WORDS = ("order", "user", "price", "state", "created", "paid", "region", "amount", "currency", "item")


def measure(work: Callable[[], object]) -> float:
    """Give the CPU microseconds of one call, the median of RUNS runs."""
    started = time.process_time()
    work()
    repeats = max(1, int(RUN_SECONDS / max(time.process_time() - started, 1e-6)))
    costs: list[float] = []
    for _ in range(RUNS):
        started = time.process_time()
        for _ in range(repeats):
            work()
        costs.append((time.process_time() - started) / repeats * 1e6)
    return statistics.median(costs)


def value(chance: random.Random, size: int) -> bytes:
    """Make a value of `size` bytes that compresses like JSON."""
    text = ""
    while len(text) < size:
        text += f'"{chance.choice(WORDS)}":{chance.randrange(10**9)},'
    return text[:size].encode()


def row(title: str, size: int, count: int) -> None:
    chance = random.Random(size * count)
    values = [value(chance, size) for _ in range(count)]
    plain = [Record(value, timestamp_ms=1) for value in values]
    timed = [Record(value, timestamp_ms=number) for number, value in enumerate(values)]
    keyed = [
        Record(value, key=b"order-%06d" % number, headers=(("traceparent", b"0" * 55),), timestamp_ms=number)
        for number, value in enumerate(values)
    ]
    makers: list[tuple[str, Callable[[Codec], bytes]]] = [
        ("values", lambda codec: encode_values(values, timestamp_ms=1, codec=codec, limits=LIMITS)),
        ("records", lambda codec: encode_batch(plain, codec=codec, limits=LIMITS)),
        ("timestamps", lambda codec: encode_batch(timed, codec=codec, limits=LIMITS)),
        ("key, header", lambda codec: encode_batch(keyed, codec=codec, limits=LIMITS)),
    ]
    for kind, make in makers:
        cells = [*costs(make, Codec.NONE, count), *costs(make, Codec.ZSTD, count)]
        print(f"{title:>14} {kind:<12}" + "".join(f"{cell:9.2f}" for cell in cells))


def costs(make: Callable[[Codec], bytes], codec: Codec, count: int) -> list[float]:
    batch = make(codec)
    return [
        measure(lambda: make(codec)) / count,
        measure(lambda: decode_batch(batch, LIMITS)) / count,
        measure(lambda: check_batch(batch, LIMITS)),
        measure(lambda: stamp(batch, Offset(7), 3)),
    ]


def main() -> None:
    print(f"{'':>27}{'no compression':^36}{'zstd':^36}")
    print(f"{'':>27}" + "".join(f"{name:>9}" for name in ("encode", "decode", "check", "stamp") * 2))
    print(f"{'':>27}" + "".join(f"{unit:>9}" for unit in ("us/rec", "us/rec", "us/batch", "us/batch") * 2))
    for size in (100, 1024):
        for count in (1, 10, 100, 1000):
            row(f"{count} x {size} B", size, count)


if __name__ == "__main__":
    main()
