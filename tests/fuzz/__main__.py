"""Long runs against the decoders: `python -m tests.fuzz`.

With atheris the fuzzer sees which bytes lead where; it is not part of the development tools, and a run that asks for it
and does not find it says so and fails nothing. `--blind` changes good inputs by chance and needs nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

try:
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not a dependency
except ImportError:
    atheris: Any = None  # type: ignore[no-redef,unused-ignore]

# Of the libraries below nothing is to be learned, and to watch them all takes a minute.
with nullcontext() if atheris is None else atheris.instrument_imports(include=["logbroker", "logbroker_client"]):
    from tests.fuzz.decoders import DECODERS, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz.decoders import Decoder

SKIPPED = 0
SLOW_S = 1.0
_TELLING = [b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x00" * 4, b"\x80", b"\xdd\xff\xff\xff\xff", b"\x91" * 30]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", help="decoders; all of them without a name")
    parser.add_argument("--list", action="store_true", help="name the decoders")
    parser.add_argument("--blind", action="store_true", help="without atheris: change good inputs by chance")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each decoder")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    if asked.list:
        print("\n".join(DECODERS))
        return 0
    unknown = [name for name in asked.names if name not in DECODERS]
    if unknown:
        parser.error(f"no decoder is called {unknown[0]!r}; --list names them")
    names = asked.names or list(DECODERS)
    if asked.blind:
        return blind(names, seconds=asked.seconds, seed=asked.seed)
    return guided(names, seconds=asked.seconds)


def blind(names: Sequence[str], *, seconds: float, seed: int) -> int:
    """Chance alone; gives 1 if something was found."""
    failures = 0
    for name in names:
        rng = random.Random(f"{seed} {name}")
        decoder, tried, refused, slowest_s = DECODERS[name], 0, 0, 0.0
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            data = mutated(decoder, rng)
            began_s = time.process_time()
            try:
                refused += not run(decoder, data)
            except Exception:
                failures += 1
                print(f"{name}: FAILED on {data.hex()}")
                traceback.print_exc()
                break
            slowest_s = max(slowest_s, time.process_time() - began_s)
            tried += 1
        is_slow = slowest_s > SLOW_S
        failures += is_slow
        print(
            f"{name}: {tried:,} inputs, {refused:,} refused, slowest {1000 * slowest_s:.1f} ms{' TOO SLOW' * is_slow}"
        )
    return 1 if failures else 0


def mutated(decoder: Decoder, rng: random.Random) -> bytes:
    """A good input, changed in a few places, and sealed again half of the time."""
    data = bytearray(rng.choice(decoder.seeds))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        piece = rng.choice(_TELLING) if rng.random() < 0.3 else rng.randbytes(rng.randrange(1, 5))
        match rng.randrange(5):
            case 0:
                data[at : at + len(piece)] = piece
            case 1:
                data[at:at] = piece
            case 2:
                del data[at : at + rng.randrange(1, 12)]
            case 3 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case _:
                other = rng.choice(decoder.seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
    if decoder.seal is not None and rng.random() < 0.5:
        return decoder.seal(bytes(data))
    return bytes(data)


def guided(names: Sequence[str], *, seconds: float) -> int:
    """One after the other under atheris, which ends the process at the first finding."""
    if atheris is None:
        print("SKIPPED: atheris is not installed (pip install atheris); --blind goes without it")
        return SKIPPED
    if len(names) != 1:
        print("atheris takes one decoder a process; give one name (--list)", file=sys.stderr)
        return 2
    decoder = DECODERS[names[0]]
    rng = random.Random(0)

    def one(data: bytes) -> None:
        run(decoder, data)
        if decoder.seal is not None:
            run(decoder, decoder.seal(data))

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        # A checksum stops a fuzzer that does not know it: half of what it tries begins with a good input.
        if seed % 2:
            return mutated(decoder, rng)[:max_size]
        return bytes(atheris.Mutate(data, max_size))

    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-timeout=1"], one, custom_mutator=change)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
