"""Frames, and the WebSocket messages that hold one or more of them back to back.

A frame is `u32 header_bytes | u32 body_bytes | header | body`, big endian. This module knows lengths
alone: what a header says is `requests`, who may say it when is `protocol`.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.errors import InvalidArgumentError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = struct.Struct(">II")
PREFIX_BYTES = _PREFIX.size

FRAME_COST_BYTES = 160
"""What a frame takes in memory while it waits to be sent, beside its bytes: of a pong that is more than the pong."""

SEND_MESSAGE_BYTES = 256 * 1024
"""Frames are joined into messages of about this size: below it the cost of a message dominates,
above 1 MiB the copies leave the processor's cache."""


@final
@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one side accepts. A header, a body and a message are each refused by their stated length."""

    max_message_bytes: int = 4 * 1024 * 1024
    max_header_bytes: int = 1024 * 1024
    max_body_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("max_message_bytes", "max_header_bytes", "max_body_bytes"):
            value = getattr(self, name)
            if not 1 <= value < 1 << 32:
                raise InvalidArgumentError(f"{name} is {value}, outside 1 to {(1 << 32) - 1}")


def encode_head(header: bytes, body_bytes: int) -> bytes:
    """The frame up to its body: the body itself follows as it is, so that it is copied only once."""
    return _PREFIX.pack(len(header), body_bytes) + header


def encode_frame(header: bytes, body: bytes = b"") -> bytes:
    """One whole frame."""
    return b"".join((_PREFIX.pack(len(header), len(body)), header, body))


def split_message(message: bytes, limits: FrameLimits) -> Iterator[tuple[bytes, bytes]]:
    """Give (header, body) of each frame, in order; both are copies, nothing keeps the message alive.

    Lazy, so that a message of many tiny frames costs no more memory than the frames taken from it.

    Raises:
        RemoteProtocolError: a length is beyond its limit or beyond the end of the message, a header
            is empty, or the message holds no frame at all.
    """
    end = len(message)
    if end > limits.max_message_bytes:
        raise RemoteProtocolError(f"message of {end} bytes is larger than {limits.max_message_bytes}")
    if end == 0:
        raise RemoteProtocolError("message holds no frame")
    position = 0
    while position < end:
        header_start = position + PREFIX_BYTES
        if header_start > end:
            raise RemoteProtocolError(f"frame prefix at byte {position} is cut off at byte {end}")
        header_bytes, body_bytes = _PREFIX.unpack_from(message, position)
        if not 0 < header_bytes <= limits.max_header_bytes:
            raise RemoteProtocolError(
                f"header of {header_bytes} bytes at byte {position} is outside 1 to {limits.max_header_bytes}"
            )
        if body_bytes > limits.max_body_bytes:
            raise RemoteProtocolError(
                f"body of {body_bytes} bytes at byte {position} is larger than {limits.max_body_bytes}"
            )
        body_start = header_start + header_bytes
        position = body_start + body_bytes
        if position > end:
            raise RemoteProtocolError(f"frame ends at byte {position}, beyond its message of {end} bytes")
        yield message[header_start:body_start], message[body_start:position]


@final
class SendBuffer:
    """Frames that wait to be sent, in order, given out as messages.

    It has no bound of its own, because a reply must go somewhere: its owner stops making frames
    while `pending_bytes` is too large.
    """

    def __init__(self) -> None:
        # Each frame is (bytes in all, head, body).
        self._frames: deque[tuple[int, bytes, bytes]] = deque()
        self._pending_bytes = 0

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    @property
    def held_bytes(self) -> int:
        """What the frames take in memory."""
        return self._pending_bytes + FRAME_COST_BYTES * len(self._frames)

    def append(self, header: bytes, body: bytes = b"") -> None:
        frame_bytes = PREFIX_BYTES + len(header) + len(body)
        self._frames.append((frame_bytes, encode_head(header, len(body)), body))
        self._pending_bytes += frame_bytes

    def next_message(self, max_message_bytes: int = SEND_MESSAGE_BYTES) -> bytes | None:
        """Join the frames that are ready, up to `max_message_bytes`; a larger frame goes alone."""
        frames = self._frames
        if not frames:
            return None
        frame_bytes, head, body = frames.popleft()
        message_bytes = frame_bytes
        parts = [head, body]
        while frames and message_bytes + frames[0][0] <= max_message_bytes:
            frame_bytes, head, body = frames.popleft()
            message_bytes += frame_bytes
            parts.append(head)
            parts.append(body)
        self._pending_bytes -= message_bytes
        return b"".join(parts)

    def clear(self) -> None:
        self._frames.clear()
        self._pending_bytes = 0
