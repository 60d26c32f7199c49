"""Loads RabbitMQ over AMQP 0-9-1: `python -m tools.bench.drivers.amqp JOB`. Queues exist already.

A frame is type, channel and size, the payload, and an end byte. A message is three frames, a method, a header and the
body, as long as it is below the frame size, and it always is here.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, final

from tools.bench.drivers.job import Received, Role, Work, run_driver
from tools.bench.drivers.stream import DriverError, Stream, produce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFETCH_COUNT = 1000
_FRAME = struct.Struct(">BHI")
_METHOD_ID = struct.Struct(">HH")
_METHOD, _HEADER, _BODY = 1, 2, 3
_END = b"\xce"
_MAX_FRAME_BYTES = 131_072

_START, _START_OK, _TUNE, _TUNE_OK, _OPEN, _OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
_CHANNEL_OPEN, _CHANNEL_OPEN_OK = (20, 10), (20, 11)
_DECLARE, _DECLARE_OK, _DELETE, _DELETE_OK = (50, 10), (50, 11), (50, 40), (50, 41)
_QOS, _QOS_OK, _CONSUME, _CONSUME_OK = (60, 10), (60, 11), (60, 20), (60, 21)
_PUBLISH, _DELIVER, _ACK = (60, 40), (60, 60), (60, 80)
_CONFIRM_SELECT, _CONFIRM_SELECT_OK = (85, 10), (85, 11)
_DURABLE = 2
_PASSIVE = 1
_PERSISTENT = 2

_TAG = struct.Struct(">QB")


def short_text(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def long_text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def table(values: Mapping[str, str | int]) -> bytes:
    """A field table of texts and 32-bit numbers."""
    fields = b""
    for name, value in values.items():
        coded = b"S" + long_text(value.encode()) if isinstance(value, str) else b"I" + struct.pack(">i", value)
        fields += short_text(name) + coded
    return long_text(fields)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, channel, len(payload)) + payload + _END


def method(channel: int, name: tuple[int, int], arguments: bytes) -> bytes:
    return frame(_METHOD, channel, _METHOD_ID.pack(*name) + arguments)


@final
class Channel:
    """A connection with its only channel."""

    def __init__(self, endpoint: str) -> None:
        self.stream = Stream(endpoint)
        self.stream.send(b"AMQP\x00\x00\x09\x01")
        self.expect(_START)
        login = table({}) + short_text("PLAIN") + long_text(b"\x00guest\x00guest") + short_text("en_US")
        self.stream.send(method(0, _START_OK, login))
        self.expect(_TUNE)
        tuned = method(0, _TUNE_OK, struct.pack(">HIH", 1, _MAX_FRAME_BYTES, 0))
        self.stream.send(tuned + method(0, _OPEN, short_text("/") + b"\x00\x00"))
        self.expect(_OPEN_OK)
        self.call(_CHANNEL_OPEN, short_text(""), _CHANNEL_OPEN_OK)

    def call(self, name: tuple[int, int], arguments: bytes, answer: tuple[int, int]) -> bytes:
        self.stream.send(method(1, name, arguments))
        return self.expect(answer)

    def frame(self) -> tuple[int, bytes]:
        """Take the next frame: its kind and payload."""
        stream = self.stream
        while True:
            have = len(stream.data) - stream.position
            if have >= _FRAME.size:
                kind, _channel, size = _FRAME.unpack_from(stream.data, stream.position)
                if have >= _FRAME.size + size + 1:
                    start = stream.position + _FRAME.size
                    stream.position = start + size + 1
                    return kind, stream.data[start : start + size]
            stream.fill()

    def expect(self, name: tuple[int, int]) -> bytes:
        """Take frames up to a method, and give its arguments.

        Raises:
            DriverError: another method comes.
        """
        kind, payload = self.frame()
        found = _METHOD_ID.unpack_from(payload) if kind == _METHOD else (kind, 0)
        if found != name:
            raise DriverError(f"method {found} {payload[4:]!r} came instead of {name}")
        return payload[4:]

    def declare(self, queue: str, arguments: Mapping[str, str | int], *, passive: bool = False) -> None:
        bits = _DURABLE | (_PASSIVE if passive else 0)
        self.call(_DECLARE, b"\x00\x00" + short_text(queue) + bytes([bits]) + table(arguments), _DECLARE_OK)

    def delete(self, queue: str) -> None:
        self.call(_DELETE, b"\x00\x00" + short_text(queue) + b"\x00", _DELETE_OK)


@final
class AmqpProducer:
    def __init__(self, endpoint: str, queue: str) -> None:
        self._channel = Channel(endpoint)
        self.stream = self._channel.stream
        self._channel.call(_CONFIRM_SELECT, b"\x00", _CONFIRM_SELECT_OK)
        publish = method(1, _PUBLISH, b"\x00\x00" + short_text("") + short_text(queue) + b"\x00")
        self._start = publish + _FRAME.pack(_HEADER, 1, 15) + struct.pack(">HH", 60, 0)
        self._middle = struct.pack(">HB", 0x1000, _PERSISTENT) + _END
        self._done = bytearray(1 << 20)
        self._lowest = 0

    def wrap(self, number: int, message: bytes) -> bytes:
        size = len(message)
        # Header: body size, which properties follow, the delivery mode.
        return b"%b%b%b%b%b\xce" % (
            self._start,
            size.to_bytes(8, "big"),
            self._middle,
            _FRAME.pack(_BODY, 1, size),
            message,
        )

    def confirmed(self) -> list[int]:
        """Numbers are delivery tags less one: both count from the first message of the channel."""
        stream = self.stream
        data, position = stream.data, stream.position
        numbers: list[int] = []
        end = len(data)
        while end - position >= 21:
            # A confirmation is a frame of 13 bytes: class, method, tag, bits.
            if data[position : position + 11] != b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50":
                raise DriverError(f"instead of a confirmation: {data[position : position + 200]!r}")
            tag, is_multiple = _TAG.unpack_from(data, position + 11)
            position += 21
            self._confirm(tag, is_multiple, numbers)
        stream.position = position
        return numbers

    def _confirm(self, tag: int, is_multiple: int, numbers: list[int]) -> None:
        if tag > len(self._done):
            self._done.extend(bytes(tag))
        done = self._done
        if not is_multiple:
            done[tag - 1] = 1
            numbers.append(tag - 1)
            return
        lowest = self._lowest
        for number in range(lowest, tag):
            if not done[number]:
                done[number] = 1
                numbers.append(number)
        # All up to here are done; those confirmed singly above it are passed by the next one.
        self._lowest = max(lowest, tag)


def _produce(work: Work) -> None:
    produce(work, AmqpProducer(work.job.endpoints[0], work.job.queues[0]))


def _consume(work: Work) -> None:
    """Each message is acked by itself; acks go out when there is nothing to read, or 64 are due."""
    job = work.job
    queue = job.queues[0]
    channel = Channel(job.endpoints[0])
    stream = channel.stream
    channel.call(_QOS, struct.pack(">IHB", 0, PREFETCH_COUNT, 0), _QOS_OK)
    received = Received()
    work.begin()
    channel.call(_CONSUME, b"\x00\x00" + short_text(queue) + short_text("") + b"\x00" + table({}), _CONSUME_OK)
    acks: list[bytes] = []
    for _ in range(job.count):
        if stream.position == len(stream.data) or len(acks) >= 64:
            stream.send(b"".join(acks))
            acks.clear()
        kind, payload = channel.frame()
        if kind != _METHOD or _METHOD_ID.unpack_from(payload) != _DELIVER:
            raise DriverError(f"instead of a delivery: {payload!r}")
        channel.frame()
        _, body = channel.frame()
        received.add(body, time.perf_counter_ns())
        tag_at = 5 + payload[4]
        acks.append(b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50%b\x00\xce" % payload[tag_at : tag_at + 8])
    stream.send(b"".join(acks))
    # A call on the same channel: when it is answered the broker has taken all acks.
    channel.declare(queue, {}, passive=True)
    work.end()
    stream.close()
    latencies, doubled_count = received.check(work)
    work.report(latencies, doubled_count=doubled_count)


_ROLES: dict[Role, Callable[[Work], None]] = {"produce": _produce, "paced": _produce, "consume": _consume}

if __name__ == "__main__":
    run_driver(_ROLES)
