"""A stream of which the beginning was read already, and that takes little from strangers."""

from __future__ import annotations

from typing import final

import trio

from logbroker.errors import RemoteProtocolError


@final
class HeadStream(trio.abc.Stream):
    """Gives `head` first, then what the stream gives.

    While `allowance_bytes` is a number, no more than so many bytes are taken in all: whoever has not said who it is
    cannot make this node buffer.
    """

    def __init__(self, stream: trio.abc.Stream, head: bytes, *, allowance_bytes: int | None) -> None:
        self._stream = stream
        self._head = head
        self.allowance_bytes = allowance_bytes

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            await trio.lowlevel.checkpoint()
            size = len(self._head) if max_bytes is None else max_bytes
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = bytes(await self._stream.receive_some(max_bytes))
        if self.allowance_bytes is not None:
            self.allowance_bytes -= len(data)
            if self.allowance_bytes < 0:
                raise RemoteProtocolError("too many bytes before the hello was answered")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
