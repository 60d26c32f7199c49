"""Every decoder, on any bytes: a value or one of its own errors, soon, and in little memory.

The list is `tests.fuzz.decoders`, which the fuzzer uses for the long runs.
"""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.decoders import DECODERS, Decoder, msgpack, run

# What a length, a count or a kind may be replaced with.
TELLING = [b"\xff", b"\x7f", b"\x00", b"\x80", b"\x01", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"]
TELLING += [b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 50]
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)
SOON_S = 1.0
MEMORY_BYTES = 24 << 20
names = pytest.mark.parametrize("name", DECODERS)


def holds(decoder: Decoder, data: bytes) -> None:
    """Another error than the decoder's own comes out of here."""
    began_s = time.process_time()
    run(decoder, data)
    assert time.process_time() - began_s < SOON_S


@st.composite
def changed(draw: st.DrawFn, decoder: Decoder) -> bytes:
    """A good input with some bytes changed, cut out or put in; sealed again half of the time, where there is a seal."""
    data = bytearray(draw(st.sampled_from(decoder.seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.one_of(st.sampled_from(TELLING), st.binary(max_size=6)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + len(piece)] = piece
            case 1:
                data[at:at] = piece
            case 2:
                del data[at : at + draw(st.integers(1, 12))]
            case _:
                del data[at:]
    if decoder.seal is not None and draw(st.booleans()):
        return decoder.seal(bytes(data))
    return bytes(data)


@names
def test_good_inputs_are_good(name: str) -> None:
    decoder = DECODERS[name]
    assert any([run(decoder, seed) for seed in decoder.seeds])


@names
@given(data=st.data())
@settings(max_examples=60)
def test_any_bytes_are_taken_or_named(name: str, data: st.DataObject) -> None:
    holds(DECODERS[name], data.draw(st.binary(max_size=200)))


@names
@given(data=st.data())
@settings(max_examples=60)
def test_changed_inputs_are_taken_or_named(name: str, data: st.DataObject) -> None:
    decoder = DECODERS[name]
    holds(decoder, data.draw(changed(decoder)))


@given(JSON_LIKE)
@settings(max_examples=60)
@example([[]] * 1_000)
def test_any_msgpack_is_taken_or_named(value: object) -> None:
    data = msgpack(value)
    for decoder in DECODERS.values():
        holds(decoder, data)
        if decoder.seal is not None:
            holds(decoder, decoder.seal(data))


@names
def test_lies_at_every_place_are_taken_or_named_soon_and_in_little_memory(name: str) -> None:
    decoder = DECODERS[name]
    seed = min(decoder.seeds, key=lambda one: (not run(decoder, one), len(one)))
    # Not every byte of a long one, or this would be most of the suite.
    step = 1 + len(seed) // 150
    tracemalloc.start()
    try:
        for at in range(0, len(seed), step):
            for lie in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x91" * 40):
                data = seed[:at] + lie + seed[at + len(lie) :]
                holds(decoder, data)
                if decoder.seal is not None:
                    holds(decoder, decoder.seal(data))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_BYTES


NESTED = {"msgpack": b"\x91", "JSON": b"[", "JSON objects": b'{"a":', "TOML": b"a=["}


@names
@pytest.mark.parametrize("kind", NESTED)
def test_nesting_without_end_is_named(name: str, kind: str) -> None:
    decoder = DECODERS[name]
    for count in (500, 20_000):
        data = NESTED[kind] * count
        holds(decoder, data)
        if decoder.seal is not None:
            holds(decoder, decoder.seal(data))
