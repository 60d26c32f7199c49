"""The WebSocket frames that carry our messages, cut out of a stream and made for it, without a WebSocket library.

Nearly every byte of a connection is in one kind of frame: a whole binary message. A library takes each of those through
a dozen calls and six copies. Here they are taken apart in one pass; pings and the goodbye are passed on as they came,
to a library that knows how to answer. Whatever else comes breaks a rule, and is known by the head of its frame: a
library waits for all of a frame, however long it says it is, and keeps every piece of a message, however many there
are. This module is pure: it is given bytes and gives messages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import final

from logbroker.wire.masking import MASK_BYTES, mask

# FIN, no extension, and the opcode of a binary message, of close, ping and pong.
_BINARY = 0x82
_CLOSE, _PING = 0x88, 0x89
_CONTROL = frozenset((_CLOSE, _PING, 0x8A))
# The pieces of a binary message that comes in more than one frame.
_FIRST_PIECE, _NEXT_PIECE, _LAST_PIECE = 0x02, 0x00, 0x80
_PIECES = frozenset((_FIRST_PIECE, _NEXT_PIECE, _LAST_PIECE))
_TEXT = frozenset((0x01, 0x81))
_MASKED = 0x80
_SIZE_16, _SIZE_64 = 126, 127
_LARGEST_CONTROL = 125
_HEAD_16 = struct.Struct(">BBH")
_HEAD_64 = struct.Struct(">BBQ")

# Room for a frame is taken as it comes, not as it is announced.
_FIRST_ROOM_BYTES = 256 * 1024

PROTOCOL_ERROR, UNSUPPORTED_DATA, TOO_BIG = 1002, 1003, 1009


def message_head(size_bytes: int, key: bytes = b"") -> bytes:
    """The head of a frame that holds one whole binary message; with a key, the message has to be masked with it."""
    masked = _MASKED if key else 0
    if size_bytes < _SIZE_16:
        return bytes((_BINARY, masked | size_bytes)) + key
    if size_bytes < 1 << 16:
        return _HEAD_16.pack(_BINARY, masked | _SIZE_16, size_bytes) + key
    return _HEAD_64.pack(_BINARY, masked | _SIZE_64, size_bytes) + key


@final
@dataclass(frozen=True, slots=True)
class Breach:
    """A rule of WebSocket, or of ours, that the other side broke. `code` is for the close frame that says so."""

    code: int
    reason: str


@final
class DataFrames:
    """Cuts what comes after a handshake into messages, and the bytes that a library has to see.

    The reader of the stream asks `rest_of_message` where the next bytes may go and gives them with `filled`, or with
    `feed` if there was no such place. After a `breach` nothing that comes means anything, and nothing is given any
    more. Keeps one message of `max_message_bytes` at the most, and one head of a frame.
    """

    __slots__ = (
        "_at",
        "_ends",
        "_is_over",
        "_key",
        "_large",
        "_mask_bit",
        "_pieces",
        "_rest",
        "_size",
        "breach",
        "is_passing",
        "max_message_bytes",
    )

    def __init__(self, *, is_masked: bool, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self.breach: Breach | None = None
        # Set by an owner that has found no WebSocket: a library is to see everything.
        self.is_passing = False
        self._mask_bit = _MASKED if is_masked else 0
        # The other side has said goodbye.
        self._is_over = False
        # The beginning of a frame of which the head is not whole, or of a control frame.
        self._rest = b""
        # The one frame of a message whose head is here and not its end: room for some or all of it, its size, how much
        # of it is here, its mask, and whether the message ends with it.
        self._large: bytearray | None = None
        self._size = 0
        self._at = 0
        self._key = b""
        self._ends = True
        # What has come of a message that comes in pieces.
        self._pieces: bytearray | None = None

    def rest_of_message(self) -> memoryview | None:
        """The place for more of a frame that has begun; None while there is none."""
        return None if self._large is None else memoryview(self._large)[self._at :]

    def filled(self, size_bytes: int) -> bytes | None:
        """So many bytes were put where `rest_of_message` said; gives the message once it is whole."""
        large = self._large
        self._at += size_bytes
        if large is None or self._at < len(large):
            return None
        if self._at < self._size:
            # Not made larger where it is: somebody may look at it.
            self._large = bytearray(min(self._size, 2 * self._at))
            self._large[: self._at] = large
            return None
        self._large = None
        data = mask(large, self._key) if self._key else bytes(large)
        return data if self._pieces is None else self._add_piece(data, ends=self._ends)

    def feed(self, data: bytes | memoryview) -> tuple[list[bytes], bytes]:
        """Take the next bytes; gives the messages that they complete, and what has to be passed on.

        Nothing of `data` is kept. What is passed on may lie between the messages, which makes no difference: messages
        and control frames have no order among each other. Of many pings the last alone is passed on, which is all that
        has to be answered (RFC 6455, 5.5.3), and pongs are not, because nobody here asks for them: so nobody can have
        the library work for long.
        """
        if self.is_passing:
            return [], bytes(data)
        if self.breach is not None or self._is_over:
            return [], b""
        if self._rest:
            data = b"".join((self._rest, data))
            self._rest = b""
        view = memoryview(data)
        messages: list[bytes] = []
        ping = close = b""
        at, end = 0, len(view)
        while end - at >= 2:
            first, second = view[at], view[at + 1]
            size = second & 0x7F
            if second & _MASKED != self._mask_bit:
                return self._break(messages, PROTOCOL_ERROR, "frames of a client are masked, those of a server are not")
            if first == _BINARY or first in _PIECES:
                start = self._start_of(view, at, size)
                if start is None:
                    break
                size = self._size_of(view, at, size)
                if first != _BINARY or self._pieces is not None or not 0 <= size <= self.max_message_bytes:
                    fault = self._fault_of(first, size)
                    if fault is not None:
                        return self._break(messages, *fault)
                if first == _FIRST_PIECE:
                    self._pieces = bytearray()
                stop = start + size
                key = bytes(view[start - MASK_BYTES : start]) if self._mask_bit else b""
                if stop > end:
                    self._begin(size, key, view[start:end], ends=first != _FIRST_PIECE and first != _NEXT_PIECE)
                    at = end
                    break
                message: bytes | None = mask(view[start:stop], key) if key else bytes(view[start:stop])
                if self._pieces is not None:
                    message = self._add_piece(message or b"", ends=first == _LAST_PIECE)
                if message is not None:
                    messages.append(message)
                at = stop
            elif first in _CONTROL and size <= _LARGEST_CONTROL:
                stop = at + 2 + size + (MASK_BYTES if self._mask_bit else 0)
                if stop > end:
                    break
                if first == _PING:
                    ping = bytes(view[at:stop])
                elif first == _CLOSE:
                    # Nothing may follow it.
                    self._is_over = True
                    close = bytes(view[at:stop])
                    stop = end
                at = stop
            elif first in _TEXT:
                return self._break(messages, UNSUPPORTED_DATA, "a text message; this subprotocol is binary")
            else:
                return self._break(messages, PROTOCOL_ERROR, f"a frame begins with {first:#04x} {second:#04x}")
        self._rest = bytes(view[at:])
        return messages, ping + close

    def _fault_of(self, first: int, size: int) -> tuple[int, str] | None:
        """What is wrong with the next frame of a message, by its head; None if nothing is."""
        if size < 0:
            return PROTOCOL_ERROR, "the length of a frame is written in more bytes than it takes"
        pieces = self._pieces
        if (pieces is None) != (first in (_BINARY, _FIRST_PIECE)):
            return PROTOCOL_ERROR, "a piece of a message out of turn"
        size += 0 if pieces is None else len(pieces)
        if size > self.max_message_bytes:
            return TOO_BIG, f"a message of {size} bytes or more; the most is {self.max_message_bytes}"
        return None

    def _break(self, messages: list[bytes], code: int, reason: str) -> tuple[list[bytes], bytes]:
        self.breach = Breach(code, reason)
        self._pieces = None
        return messages, b""

    def _add_piece(self, data: bytes, *, ends: bool) -> bytes | None:
        """One more piece of a message is here; gives the message if it is the last."""
        pieces = self._pieces
        if pieces is None:
            return data
        pieces += data
        if not ends:
            return None
        self._pieces = None
        return bytes(pieces)

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

    def _begin(self, size: int, key: bytes, begun: memoryview, *, ends: bool) -> None:
        self._large = bytearray(min(size, max(_FIRST_ROOM_BYTES, 2 * len(begun))))
        self._size = size
        self._at = len(begun)
        self._key = key
        self._ends = ends
        self._large[: self._at] = begun
