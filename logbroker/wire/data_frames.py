"""The WebSocket frames that carry our messages, cut out of a stream and made for it, without a WebSocket library.

Nearly every byte of a connection is in one kind of frame: a whole binary message. A library takes each of those through
a dozen calls and six copies. Here they are taken apart in one pass; everything else (control frames, text, fragments,
what breaks the rules) is passed on as it came, to a library that knows what it means. This module is pure: it is given
bytes and gives messages.
"""

from __future__ import annotations

import struct
from typing import final

from logbroker.wire.masking import MASK_BYTES, mask

# FIN, no extension, and the opcode of a binary message, of close, ping and pong.
_BINARY = 0x82
_CONTROL = frozenset((0x88, 0x89, 0x8A))
_MASKED = 0x80
_SIZE_16, _SIZE_64 = 126, 127
_LARGEST_CONTROL = 125
_HEAD_16 = struct.Struct(">BBH")
_HEAD_64 = struct.Struct(">BBQ")


def message_head(size_bytes: int, key: bytes = b"") -> bytes:
    """The head of a frame that holds one whole binary message; with a key, the message has to be masked with it."""
    masked = _MASKED if key else 0
    if size_bytes < _SIZE_16:
        return bytes((_BINARY, masked | size_bytes)) + key
    if size_bytes < 1 << 16:
        return _HEAD_16.pack(_BINARY, masked | _SIZE_16, size_bytes) + key
    return _HEAD_64.pack(_BINARY, masked | _SIZE_64, size_bytes) + key


@final
class DataFrames:
    """Cuts what comes after a handshake into messages, and the bytes that a library has to see.

    The reader of the stream asks `rest_of_message` where the next bytes may go and gives them with `filled`, or with
    `feed` if there was no such place. Messages larger than `max_message_bytes`, fragments and whatever is no frame of
    ours are not for it: from there on everything is passed on, and `is_passing` says so.
    """

    __slots__ = ("_at", "_key", "_large", "_mask_bit", "_rest", "is_passing", "max_message_bytes")

    def __init__(self, *, is_masked: bool, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self.is_passing = False
        self._mask_bit = _MASKED if is_masked else 0
        # The beginning of a frame of which the head is not whole, or of a control frame.
        self._rest = b""
        # The one message whose head is here and not its end, how much of it is, and its mask.
        self._large: bytearray | None = None
        self._at = 0
        self._key = b""

    def rest_of_message(self) -> memoryview | None:
        """The place for the rest of a message that has begun; None while there is none."""
        return None if self._large is None else memoryview(self._large)[self._at :]

    def filled(self, size_bytes: int) -> bytes | None:
        """So many bytes were put where `rest_of_message` said; gives the message once it is whole."""
        large = self._large
        self._at += size_bytes
        if large is None or self._at < len(large):
            return None
        self._large = None
        return mask(large, self._key) if self._key else bytes(large)

    def feed(self, data: bytes | memoryview) -> tuple[list[bytes], bytes]:
        """Take the next bytes; gives the messages that they complete, and what has to be passed on.

        Nothing of `data` is kept. What is passed on may lie between the messages, which makes no difference: messages
        and control frames have no order among each other. Once it `is_passing` there are no messages any more.
        """
        if self.is_passing:
            return [], bytes(data)
        if self._rest:
            data = b"".join((self._rest, data))
            self._rest = b""
        view = memoryview(data)
        messages: list[bytes] = []
        passed = b""
        at, end = 0, len(view)
        while end - at >= 2:
            first, second = view[at], view[at + 1]
            size = second & 0x7F
            if first == _BINARY and second & _MASKED == self._mask_bit:
                start = self._start_of(view, at, size)
                if start is None:
                    break
                size = self._size_of(view, at, size)
                if 0 <= size <= self.max_message_bytes:
                    stop = start + size
                    key = bytes(view[start - MASK_BYTES : start]) if self._mask_bit else b""
                    if stop > end:
                        self._begin(size, key, view[start:end])
                        at = end
                        break
                    messages.append(mask(view[start:stop], key) if key else bytes(view[start:stop]))
                    at = stop
                    continue
            elif first in _CONTROL and size <= _LARGEST_CONTROL and second & _MASKED == self._mask_bit:
                stop = at + 2 + size + (MASK_BYTES if self._mask_bit else 0)
                if stop > end:
                    break
                passed += view[at:stop]
                at = stop
                continue
            self.is_passing = True
            return messages, passed + bytes(view[at:])
        self._rest = bytes(view[at:])
        return messages, passed

    def _start_of(self, view: memoryview, at: int, size: int) -> int | None:
        """Where the message of the frame at `at` begins; None while its head is not whole."""
        start = at + 2 + (MASK_BYTES if self._mask_bit else 0)
        if size == _SIZE_16:
            start += 2
        elif size == _SIZE_64:
            start += 8
        return start if start <= len(view) else None

    def _size_of(self, view: memoryview, at: int, size: int) -> int:
        """How long the message is; -1 where its length is written in more bytes than it takes."""
        if size < _SIZE_16:
            return size
        long, least = (2, _SIZE_16) if size == _SIZE_16 else (8, 1 << 16)
        size = int.from_bytes(view[at + 2 : at + 2 + long], "big")
        return size if size >= least else -1

    def _begin(self, size: int, key: bytes, begun: memoryview) -> None:
        self._large = bytearray(size)
        self._at = len(begun)
        self._key = key
        self._large[: self._at] = begun
