"""zstd for the records of a batch, and the gate that keeps decompression bombs out.

A frame comes from a client or a peer, so nothing in it is believed: what it will take to inflate is read from its
header and bounded before the decompressor sees it. `ZstdDecompressor.decompress(max_output_size=)` is no such bound:
it is ignored when the header states a content size.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import TYPE_CHECKING, final

import zstandard

from logbroker.errors import CorruptBatchError, RequestTooLargeError

if TYPE_CHECKING:
    from logbroker.record.checksum import Buffer

_MAGIC = b"\x28\xb5\x2f\xfd"
_LEVEL = 1
_NO_CONTENT_SIZE = (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR)

MAX_WINDOW_BYTES = 8 << 20
"""What a decompressor must be able to hold by RFC 8878, section 3.1.1.1.2; more is the sender's whim."""

MAX_RATIO = 1024
"""Uncompressed bytes for each byte of a frame. Messages compress by three, rarely by a hundred."""


@final
class Codec(IntEnum):
    """How the records of a batch are compressed; the numbers are Kafka's. 1 to 3 are its gzip, snappy and lz4."""

    NONE = 0
    ZSTD = 4


class _Contexts(threading.local):
    """zstd's working memory: dear to make, and not safe in two threads at once."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)


_contexts = _Contexts()


def compress(data: Buffer) -> bytes:
    """Compress `data` into one frame that states its content size."""
    return _contexts.compressor.compress(data)


def check_frame(frame: Buffer, limit_bytes: int) -> int:
    """Give the content size that a frame states, if it may be inflated. Reads the frame's header only.

    Raises:
        CorruptBatchError: not a zstd frame, or one that asks for what we do not give: no content size, a dictionary,
            a window above MAX_WINDOW_BYTES, more than MAX_RATIO.
        RequestTooLargeError: its content is above `limit_bytes`.
    """
    # A skippable frame has parameters too, and its size would be taken for the size of a content.
    if bytes(frame[:4]) != _MAGIC:
        raise CorruptBatchError(f"zstd frame begins with {bytes(frame[:4]).hex()}, not with {_MAGIC.hex()}")
    try:
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise CorruptBatchError(f"zstd frame of {len(frame)} bytes has no readable header: {error}") from error
    content_bytes = parameters.content_size
    if content_bytes in _NO_CONTENT_SIZE:
        raise CorruptBatchError(
            "zstd frame does not state its content size",
            hint="compress a batch in one call, or tell the compressor the size before it begins",
        )
    if content_bytes > limit_bytes:
        raise RequestTooLargeError(f"zstd frame holds {content_bytes} bytes, above {limit_bytes}")
    if content_bytes > len(frame) * MAX_RATIO:
        raise CorruptBatchError(
            f"zstd frame of {len(frame)} bytes holds {content_bytes} bytes, above {MAX_RATIO} times its size",
            hint="send such records uncompressed",
        )
    if parameters.window_size > MAX_WINDOW_BYTES:
        raise CorruptBatchError(
            f"zstd frame needs a window of {parameters.window_size} bytes, above {MAX_WINDOW_BYTES}"
        )
    if parameters.dict_id:
        raise CorruptBatchError(f"zstd frame needs dictionary {parameters.dict_id}; dictionaries are not used")
    return content_bytes


def decompress_bounded(frame: Buffer, limit_bytes: int) -> bytes:
    """Inflate exactly one frame whose content is 1 to `limit_bytes` bytes.

    Takes no more memory than the content. Raises what `check_frame` raises, and CorruptBatchError for a frame that is
    empty, damaged, cut short or followed by anything.
    """
    if check_frame(frame, limit_bytes) == 0:
        # The library would answer with nothing, without a look at the rest of the frame.
        raise CorruptBatchError("zstd frame is empty")
    try:
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptBatchError(f"zstd frame of {len(frame)} bytes cannot be inflated: {error}") from error
