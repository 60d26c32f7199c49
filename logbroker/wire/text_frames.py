"""`data_frames` for a connection that speaks text: the same rules, with text where those have binary messages.

Binary is what costs; so there is one machine for frames, made for it, and this one turns the first byte of each data
frame around before that machine sees it. What comes out is UTF-8.
"""

from __future__ import annotations

from typing import final

from logbroker.wire.data_frames import UNSUPPORTED_DATA, Breach, DataFrames, message_head
from logbroker.wire.masking import MASK_BYTES

NOT_UTF8 = 1007

# Opcode and FIN of text and binary frames, each for the other; all else stays.
_TURNED = {0x81: 0x82, 0x82: 0x81, 0x01: 0x02, 0x02: 0x01}
_MASKED = 0x80
_WIDE = {126: 2, 127: 8}


def text_head(size_bytes: int, key: bytes = b"") -> bytes:
    """The head of a frame that holds one whole text message; as `message_head`."""
    return b"\x81" + message_head(size_bytes, key)[1:]


@final
class TextFrames:
    """Cuts what comes after a handshake into texts, and the bytes that a library has to see; as `DataFrames`."""

    def __init__(self, *, is_masked: bool, max_message_bytes: int) -> None:
        self._frames = DataFrames(is_masked=is_masked, max_message_bytes=max_message_bytes)
        self._breach: Breach | None = None
        # Of the frame whose head was seen last, what has not come yet.
        self._left_bytes = 0
        # The beginning of a head.
        self._rest = b""

    @property
    def breach(self) -> Breach | None:
        found = self._frames.breach
        if self._breach is None and found is not None and found.code == UNSUPPORTED_DATA:
            return Breach(UNSUPPORTED_DATA, "a binary message; this subprotocol is text")
        return self._breach or found

    @property
    def max_message_bytes(self) -> int:
        return self._frames.max_message_bytes

    @max_message_bytes.setter
    def max_message_bytes(self, size_bytes: int) -> None:
        self._frames.max_message_bytes = size_bytes

    def rest_of_message(self) -> None:
        """There is no such place; everything goes through `feed`."""
        return

    def filled(self, size_bytes: int) -> bytes | None:
        raise NotImplementedError

    def feed(self, data: bytes | memoryview) -> tuple[list[bytes], bytes]:
        """Take the next bytes; gives the texts that they complete, and what has to be passed on."""
        if self.breach is not None:
            return [], b""
        turned = bytearray(b"".join((self._rest, data)))
        self._rest = b""
        at, end = self._left_bytes, len(turned)
        while at < end:
            size = _frame_bytes(turned, at)
            if size is None:
                self._rest = bytes(turned[at:])
                del turned[at:]
                end = at
                break
            turned[at] = _TURNED.get(turned[at], turned[at])
            at += size
        self._left_bytes = at - end
        messages, passed = self._push(memoryview(turned))
        for number, message in enumerate(messages):
            try:
                message.decode()
            except UnicodeDecodeError:
                self._breach = Breach(NOT_UTF8, "a text that is not UTF-8")
                return messages[:number], b""
        return messages, passed

    def _push(self, view: memoryview) -> tuple[list[bytes], bytes]:
        messages: list[bytes] = []
        while (place := self._frames.rest_of_message()) is not None and view:
            size = min(len(place), len(view))
            place[:size] = view[:size]
            place.release()
            message = self._frames.filled(size)
            if message is not None:
                messages.append(message)
            view = view[size:]
        found, passed = self._frames.feed(view) if view else ([], b"")
        return messages + found, passed


def _frame_bytes(data: bytearray, at: int) -> int | None:
    """How long the frame at `at` says it is, all in all; None while its head is not whole."""
    if len(data) - at < 2:
        return None
    second = data[at + 1]
    size = second & 0x7F
    wide = _WIDE.get(size, 0)
    head_bytes = 2 + wide
    if len(data) - at < head_bytes:
        return None
    if wide:
        size = int.from_bytes(data[at + 2 : at + head_bytes], "big")
    return head_bytes + (MASK_BYTES if second & _MASKED else 0) + size
