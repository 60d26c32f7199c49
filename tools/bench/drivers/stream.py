"""A blocking TCP connection with a buffer, for the drivers of peers, and how their messages are kept in flight.

The peers' protocols are spoken directly, with as little work a message as Python allows, so that the client takes no
more of the shared cores than one in C does.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from typing import TYPE_CHECKING, Protocol, final

from tools.bench.drivers.job import IDLE_S, Source
from tools.bench.latency import Latencies

if TYPE_CHECKING:
    from tools.bench.drivers.job import Job, Work

_RECEIVE_BYTES = 1 << 18
# Messages joined into one piece for the socket.
_CHUNK_COUNT = 32


class DriverError(Exception):
    """The server said something else than it should; says what."""


@final
class Stream:
    """What has arrived lies in `data` from `position` on; who has understood a part moves `position`."""

    def __init__(self, endpoint: str, *, patience_s: float = IDLE_S) -> None:
        host, _, port = endpoint.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=patience_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._patience_s = patience_s
        self.data = b""
        self.position = 0

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait(self, timeout_s: float) -> bool:
        """Wait for bytes; say whether there are any."""
        return bool(select.select([self._socket], [], [], timeout_s)[0])

    def fill(self) -> None:
        """Put what arrives behind what is not understood yet.

        Raises:
            DriverError: nothing does for `patience_s`, or the server has closed.
        """
        if not self.wait(self._patience_s):
            raise DriverError(f"the server says nothing for {self._patience_s:.0f} s")
        received = self._socket.recv(_RECEIVE_BYTES)
        if not received:
            raise DriverError("the server has closed the connection")
        self.data = self.data[self.position :] + received
        self.position = 0

    def close(self) -> None:
        self._socket.close()


class PeerProducer(Protocol):
    """A connection that publishes."""

    stream: Stream

    def wrap(self, number: int, message: bytes) -> bytes:
        """Give the bytes that publish a message."""
        ...

    def confirmed(self) -> list[int]:
        """Take what has arrived apart, and give the numbers of newly confirmed messages."""
        ...


@final
class Window:
    """Sends messages and notes when they are confirmed, at most `job.window` outstanding."""

    def __init__(self, job: Job, producer: PeerProducer, source: Source) -> None:
        self._job = job
        self._producer = producer
        self._source = source
        # Numbers count on over warming up and the work, as each is confirmed but once.
        self.first = 0
        self.sent_ns = array("q")
        self.done_ns = array("q")

    def send_all(self, count: int) -> None:
        """Send as fast as confirmations come. A full window opens again when a sixteenth of it is free."""
        producer, source, window = self._producer, self._source, self._job.window
        low = max(1, window // 16)
        self._begin(count)
        sent = confirmed = 0
        while confirmed < count:
            free = min(window - (sent - confirmed), count - sent)
            if free and (free >= low or free == count - sent):
                taken = min(free, _CHUNK_COUNT)
                producer.stream.send(b"".join([self._one(source, sent + i) for i in range(taken)]))
                sent += taken
                if sent - confirmed < window and sent < count and not producer.stream.wait(0):
                    continue
            producer.stream.fill()
            confirmed += self._settle()

    def send_on_schedule(self, count: int, rate: float) -> None:
        """Send each message at its time, or at once if that has passed; `sent_ns` is the planned time."""
        producer, source = self._producer, self._source
        self._begin(count)
        began_ns = time.perf_counter_ns()
        sent = confirmed = 0
        while confirmed < count:
            planned_ns = began_ns + int(sent / rate * 1e9)
            ahead_s = (planned_ns - time.perf_counter_ns()) / 1e9
            if sent < count and ahead_s <= 0:
                number = self.first + sent
                self.sent_ns[sent] = planned_ns
                producer.stream.send(producer.wrap(number, source.message(number, planned_ns)))
                sent += 1
                ahead_s = 0
            if sent == count or producer.stream.wait(max(ahead_s, 0)):
                producer.stream.fill()
                confirmed += self._settle()

    def _begin(self, count: int) -> None:
        self.first += len(self.sent_ns)
        self.sent_ns = array("q", bytes(8 * count))
        self.done_ns = array("q", bytes(8 * count))

    def _one(self, source: Source, position: int) -> bytes:
        number = self.first + position
        self.sent_ns[position] = now_ns = time.perf_counter_ns()
        return self._producer.wrap(number, source.message(number, now_ns))

    def _settle(self) -> int:
        numbers = self._producer.confirmed()
        now_ns = time.perf_counter_ns()
        first, done_ns = self.first, self.done_ns
        for number in numbers:
            done_ns[number - first] = now_ns
        return len(numbers)

    def latencies(self) -> Latencies:
        found = Latencies()
        for start_ns, end_ns in zip(self.sent_ns, self.done_ns, strict=True):
            found.add_ns(end_ns - start_ns)
        return found


def produce(work: Work, producer: PeerProducer) -> None:
    """What `produce` and `paced` are on any peer."""
    job = work.job
    window = Window(job, producer, Source(job))
    if job.warm_count:
        window.send_all(job.warm_count)
    work.begin()
    if job.role == "paced":
        window.send_on_schedule(job.count, job.rate)
    else:
        window.send_all(job.count)
    work.end()
    producer.stream.close()
    work.report(window.latencies())
