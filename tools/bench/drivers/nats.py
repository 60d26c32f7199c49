"""Loads NATS JetStream: `python -m tools.bench.drivers.nats JOB`. Streams and consumers exist already.

The client protocol is text: PUB and MSG lines, each with a payload. A publish names a reply subject that ends in the
message's number; the stream answers there once it has stored the message.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any, final

from tools.bench.drivers.job import IDLE_S, Received, Role, Work, run_driver
from tools.bench.drivers.stream import DriverError, Stream, produce

if TYPE_CHECKING:
    from collections.abc import Callable

CONSUMER = "bench"
PREFETCH_COUNT = 1000
_CONNECT = {"verbose": False, "pedantic": False, "lang": "python", "version": "0", "protocol": 1, "headers": True}
_PULL_EXPIRES_S = 60
_CONFIRMATION = re.compile(rb'MSG \S+\.(\d+) 1 \d+\r\n\{"stream":"[^"]*", ?"seq":\d+[^{}]*\}\r\n')


@final
class Connection:
    """A connection that has said hello."""

    def __init__(self, endpoint: str, *, patience_s: float = IDLE_S) -> None:
        self.stream = Stream(endpoint, patience_s=patience_s)
        self.inbox = f"_B.{os.getpid()}"
        self.stream.send(b"CONNECT " + json.dumps(_CONNECT).encode() + b"\r\nPING\r\n")
        while self.line() != b"PONG":
            pass

    def line(self) -> bytes:
        """Take the next line."""
        stream = self.stream
        while (end := stream.data.find(b"\r\n", stream.position)) < 0:
            stream.fill()
        line = stream.data[stream.position : end]
        stream.position = end + 2
        return line

    def payload(self, size_bytes: int) -> bytes:
        stream = self.stream
        while len(stream.data) < stream.position + size_bytes + 2:
            stream.fill()
        data = stream.data[stream.position : stream.position + size_bytes]
        stream.position += size_bytes + 2
        return data

    def message(self) -> tuple[list[bytes], bytes, bool]:
        """Take the next message: the words of its line, its payload, and whether it is one of the server's own.

        Raises:
            DriverError: the server reports an error.
        """
        while True:
            words = self.line().split()
            match words[0]:
                case b"MSG":
                    return words, self.payload(int(words[-1])), False
                case b"HMSG":
                    return words, self.payload(int(words[-1])), True
                case b"PING":
                    self.stream.send(b"PONG\r\n")
                case b"PONG" | b"INFO" | b"+OK":
                    pass
                case _:
                    raise DriverError(b" ".join(words).decode())

    def ask(self, subject: str, request: object) -> dict[str, Any]:
        """Ask JetStream's API something.

        Raises:
            DriverError: it refuses.
        """
        inbox = f"{self.inbox}.ask"
        body = json.dumps(request).encode() if request is not None else b""
        self.stream.send(f"SUB {inbox} 9\r\nUNSUB 9 1\r\nPUB $JS.API.{subject} {inbox} {len(body)}\r\n".encode())
        self.stream.send(body + b"\r\n")
        _, payload, is_status = self.message()
        if is_status:
            raise DriverError(f"{subject}: {payload.decode().strip()}")
        reply: dict[str, Any] = json.loads(payload)
        if "error" in reply:
            raise DriverError(f"{subject}: {reply['error']}")
        return reply


@final
class NatsProducer:
    def __init__(self, endpoint: str, subject: str) -> None:
        self._connection = Connection(endpoint)
        self.stream = self._connection.stream
        self._head = f"PUB {subject} {self._connection.inbox}.".encode()
        self.stream.send(f"SUB {self._connection.inbox}.* 1\r\n".encode())

    def wrap(self, number: int, message: bytes) -> bytes:
        return b"%b%d %d\r\n%b\r\n" % (self._head, number, len(message), message)

    def confirmed(self) -> list[int]:
        stream = self.stream
        numbers = []
        while True:
            found = _CONFIRMATION.match(stream.data, stream.position)
            if found is not None:
                numbers.append(int(found[1]))
                stream.position = found.end()
            elif self._is_whole_line():
                self._take_other()
            else:
                return numbers

    def _is_whole_line(self) -> bool:
        """Whether something else than a confirmation is there, and not one that is still arriving."""
        stream = self.stream
        rest = stream.data[stream.position : stream.position + 4]
        end = stream.data.find(b"\r\n", stream.position)
        if end < 0:
            return False
        return rest != b"MSG " or stream.data.find(b"\r\n", end + 2) >= 0

    def _take_other(self) -> None:
        line = self._connection.line()
        if line == b"PING":
            self.stream.send(b"PONG\r\n")
        elif not line.startswith((b"PONG", b"INFO", b"+OK")):
            raise DriverError(
                f"instead of a confirmation: {line.decode()} {self.stream.data[self.stream.position :]!r}"
            )


def _produce(work: Work) -> None:
    produce(work, NatsProducer(work.job.endpoints[0], work.job.queues[0]))


def _consume(work: Work) -> None:
    """Two pulls overlap, so that one is always open; each message is acked by itself, and not waited for."""
    job = work.job
    queue = job.queues[0]
    connection = Connection(job.endpoints[0])
    stream = connection.stream
    inbox = f"{connection.inbox}.pull"
    pull_count = PREFETCH_COUNT // 2
    body = json.dumps({"batch": pull_count, "expires": _PULL_EXPIRES_S * 10**9})
    pull = f"PUB $JS.API.CONSUMER.MSG.NEXT.{queue}.{CONSUMER} {inbox} {len(body)}\r\n{body}\r\n".encode()
    received = Received()
    work.begin()
    stream.send(f"SUB {inbox} 1\r\n".encode() + pull + pull)
    asked = 2 * pull_count
    taken = 0
    acks: list[bytes] = []
    while taken < job.count:
        if stream.data.find(b"\r\n", stream.position) < 0 or len(acks) >= 64:
            # Nothing more to read for the moment: what is due goes out.
            stream.send(b"".join(acks))
            acks.clear()
        words, payload, is_status = connection.message()
        if is_status:
            raise DriverError(payload.decode())
        received.add(payload, time.perf_counter_ns())
        acks.append(b"PUB %b 4\r\n+ACK\r\n" % words[3])
        taken += 1
        if asked - taken <= pull_count:
            acks.append(pull)
            asked += pull_count
    stream.send(b"".join(acks))
    _wait_acked(connection, queue)
    work.end()
    stream.close()
    latencies, doubled_count = received.check(work)
    work.report(latencies, doubled_count=doubled_count)


def _wait_acked(connection: Connection, queue: str) -> None:
    """Wait until the server has taken all acks."""
    for _ in range(1000):
        if connection.ask(f"CONSUMER.INFO.{queue}.{CONSUMER}", None)["num_ack_pending"] == 0:
            return
        time.sleep(0.005)
    raise DriverError("acks are still pending after five seconds")


_ROLES: dict[Role, Callable[[Work], None]] = {"produce": _produce, "paced": _produce, "consume": _consume}

if __name__ == "__main__":
    run_driver(_ROLES)
