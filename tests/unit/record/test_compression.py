from __future__ import annotations

import random
import threading
import tracemalloc

import pytest

from logbroker.errors import CorruptBatchError, RequestTooLargeError
from logbroker.record.compression import MAX_RATIO, MAX_WINDOW_BYTES, check_frame, compress, decompress_bounded
from tests.raw_batches import bombs, zstd_frame

LIMIT = 1 << 20
CONTENT = random.Random(1).randbytes(3_000) * 20
BOMBS = bombs(CONTENT)


@pytest.mark.parametrize("content", [b"x", CONTENT, bytes(1000)])
def test_a_frame_gives_back_its_content(content: bytes) -> None:
    frame = compress(content)
    assert check_frame(frame, len(content)) == len(content)
    assert decompress_bounded(frame, len(content)) == content


def test_a_frame_may_lie_in_any_buffer() -> None:
    frame = compress(CONTENT)
    assert decompress_bounded(memoryview(frame), LIMIT) == CONTENT
    assert decompress_bounded(bytearray(frame), LIMIT) == CONTENT


def test_content_above_the_limit_is_too_large() -> None:
    with pytest.raises(RequestTooLargeError, match="holds 60000 bytes, above 59999"):
        decompress_bounded(compress(CONTENT), len(CONTENT) - 1)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(name: str) -> None:
    frame = BOMBS[name]
    tracemalloc.start()
    try:
        with pytest.raises((CorruptBatchError, RequestTooLargeError)):
            decompress_bounded(frame, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # None of them gets as far as a buffer of the limit.
    assert peak < LIMIT // 2


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("no content size", "does not state its content size"),
        ("no content size, by hand", "does not state its content size"),
        ("8 KiB that hold 256 MiB", "holds 268435456 bytes, above 1048576"),
        ("content size of 2**62", "above 1048576"),
        ("content size that means unknown", "does not state its content size"),
        ("window of 128 MiB", "window of 134217728 bytes, above 8388608"),
        ("13 bytes", "above 1048576"),
        ("skippable frame alone", "begins with 502a4d18"),
        ("skippable frame first", "begins with 502a4d18"),
        ("dictionary", "needs dictionary 7"),
    ],
)
def test_the_header_alone_tells_of_a_bomb(name: str, fault: str) -> None:
    with pytest.raises((CorruptBatchError, RequestTooLargeError), match=fault):
        check_frame(BOMBS[name], LIMIT)


@pytest.mark.parametrize("name", ["skippable frame last", "two frames", "frame and one byte", "cut short"])
def test_a_frame_must_be_one_and_whole(name: str) -> None:
    with pytest.raises(CorruptBatchError, match="cannot be inflated"):
        decompress_bounded(BOMBS[name], LIMIT)


def test_the_ratio_is_bounded() -> None:
    frame = compress(bytes(LIMIT))
    assert len(frame) * MAX_RATIO < LIMIT
    with pytest.raises(CorruptBatchError, match="above 1024 times its size"):
        check_frame(frame, LIMIT)


def test_a_window_at_the_bound_is_taken() -> None:
    frame = zstd_frame(CONTENT, content_size=len(CONTENT), window_log=MAX_WINDOW_BYTES.bit_length() - 1)
    assert decompress_bounded(frame, LIMIT) == CONTENT


def test_two_threads_do_not_share_working_memory() -> None:
    contents = [random.Random(seed).randbytes(40_000) for seed in range(4)]
    faults: list[str] = []
    gate = threading.Barrier(len(contents))

    def work(content: bytes) -> None:
        gate.wait()
        for _ in range(50):
            if decompress_bounded(compress(content), LIMIT) != content:
                faults.append("content is not what went in")

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
