"""Record batches and zstd frames built by hand, so that they can lie where ours never would."""

from __future__ import annotations

import struct

import zstandard
from crc32c import crc32c


def varint(number: int) -> bytes:
    """Encode a number as a record does; written anew, so that it does not share a fault with what it tests."""
    raw = number * 2 if number >= 0 else number * -2 - 1
    encoded = b""
    while True:
        raw, low = divmod(raw, 128)
        if not raw:
            return encoded + bytes([low])
        encoded += bytes([low | 128])


def record(body: bytes) -> bytes:
    """Put the true length before the rest of a record."""
    return varint(len(body)) + body


def seal(
    data: bytes,
    *,
    count: int = 1,
    attributes: int = 0,
    last_offset_delta: int | None = None,
    base_offset: int = 0,
    leader_epoch: int = -1,
    magic: int = 2,
    base_timestamp_ms: int = 0,
    max_timestamp_ms: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    length: int | None = None,
) -> bytes:
    """Put a header with a true checksum before `data`, whatever else it says."""
    last = count - 1 if last_offset_delta is None else last_offset_delta
    tail = struct.pack(
        ">hiqqqhii",
        attributes,
        last,
        base_timestamp_ms,
        max_timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence,
        count,
    )
    crc = crc32c(tail + data)
    stated = 49 + len(data) if length is None else length
    return struct.pack(">qiibI", base_offset, stated, leader_epoch, magic, crc) + tail + data


def reseal(batch: bytes) -> bytes:
    """Make length and checksum true again after the bytes were changed."""
    return (
        batch[:8]
        + struct.pack(">i", len(batch) - 12)
        + batch[12:17]
        + struct.pack(">I", crc32c(batch[21:]))
        + batch[21:]
    )


def zstd_frame(content: bytes, *, content_size: int | None, window_log: int | None = None, dict_id: int = 0) -> bytes:
    """Build a frame of one raw block (RFC 8878, section 3.1.1) whose header may state anything.

    `window_log` is that of the window; without it the frame is a single segment.
    """
    descriptor = 0
    if window_log is None:
        descriptor |= 1 << 5
    if content_size is not None:
        descriptor |= 3 << 6
    if dict_id:
        descriptor |= 3
    header = b"\x28\xb5\x2f\xfd" + bytes([descriptor])
    if window_log is not None:
        header += bytes([(window_log - 10) << 3])
    if dict_id:
        header += struct.pack("<I", dict_id)
    if content_size is not None:
        header += struct.pack("<Q", content_size)
    last_raw_block = len(content) << 3 | 1
    return header + struct.pack("<I", last_raw_block)[:3] + content


def skippable_frame(content: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(content)) + content


def bombs(good: bytes) -> dict[str, bytes]:
    """Name frames that must not be inflated; each holds or pretends to hold `good`, of at most 64 KiB."""
    packed = zstandard.ZstdCompressor().compress(good)
    return {
        "no content size": zstandard.ZstdCompressor(write_content_size=False).compress(good),
        "no content size, by hand": zstd_frame(good, content_size=None, window_log=20),
        "8 KiB that hold 256 MiB": zstandard.ZstdCompressor().compress(bytes(256 << 20)),
        "content size of 2**62": zstd_frame(good, content_size=1 << 62),
        "content size that means unknown": zstd_frame(good, content_size=(1 << 64) - 1),
        "window of 128 MiB": zstd_frame(good, content_size=len(good), window_log=27),
        # What python-zstandard answers with an allocation of 10**18 bytes (its issue 332).
        "13 bytes": bytes.fromhex("28b52ffde06c06060663636363"),
        "skippable frame alone": skippable_frame(good),
        "skippable frame first": skippable_frame(b"") + packed,
        "skippable frame last": packed + skippable_frame(b""),
        "two frames": packed + packed,
        "frame and one byte": packed + b"\0",
        "dictionary": zstd_frame(good, content_size=len(good), dict_id=7),
        "ratio": zstandard.ZstdCompressor().compress(bytes(8 << 20)),
        "stated size above the true one": zstd_frame(good, content_size=len(good) + 1),
        "stated size below the true one": zstd_frame(good, content_size=len(good) - 1),
        "stated size 0": zstd_frame(good, content_size=0),
        "cut short": packed[:-1],
        "header cut short": packed[:5],
        "nothing": b"",
    }
