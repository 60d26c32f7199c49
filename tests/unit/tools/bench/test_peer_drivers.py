"""The peers' protocols, spoken with a scripted server."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tools.bench.drivers.amqp import AmqpProducer, frame, method, table
from tools.bench.drivers.job import Job, Source
from tools.bench.drivers.nats import Connection, NatsProducer
from tools.bench.drivers.stream import DriverError, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def scripted(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection in a thread; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)
        assert not thread.is_alive()


def _read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        received = connection.recv(65536)
        if not received:
            raise AssertionError(f"the client closed after {data!r}")
        data += received
    return data


def _welcome(connection: socket.socket) -> None:
    connection.sendall(b'INFO {"server_id":"x"}\r\n')
    assert _read_until(connection, b"PING\r\n").startswith(b"CONNECT {")
    connection.sendall(b"PONG\r\n")


def test_a_nats_producer_matches_confirmations_by_their_subject() -> None:
    sent: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        _welcome(connection)
        request = _read_until(connection, b"hello 3\r\n")
        sent.append(request)
        inbox = request.split()[1].removesuffix(b".*")
        reply = b'{"stream":"q", "seq":1}'
        connection.sendall(b"MSG %b.7 1 %d\r\n%b\r\nPING\r\n" % (inbox, len(reply), reply))
        # Cut in the middle: nothing may be read as something else.
        whole = b"MSG %b.8 1 %d\r\n%b\r\n" % (inbox, len(reply), reply)
        connection.sendall(whole[:40])
        assert _read_until(connection, b"PONG\r\n")
        connection.sendall(whole[40:])

    with scripted(serve) as endpoint:
        producer = NatsProducer(endpoint, "q")
        message = producer.wrap(3, b"hello 3")
        assert message.startswith(b"PUB q _B.")
        assert message.endswith(b".3 7\r\nhello 3\r\n")
        producer.stream.send(message)
        found: list[int] = []
        while len(found) < 2:
            producer.stream.fill()
            found += producer.confirmed()
        producer.stream.close()
    assert found == [7, 8]
    assert sent[0].startswith(b"SUB _B.")


def test_a_refusal_of_nats_is_an_error() -> None:
    def serve(connection: socket.socket) -> None:
        _welcome(connection)
        inbox = _read_until(connection, b"\r\n\r\n").split(b"\r\n")[0].split()[1]
        reply = b'{"error":{"code":404,"description":"stream not found"}}'
        connection.sendall(b"MSG %b 9 %d\r\n%b\r\n" % (inbox, len(reply), reply))

    with scripted(serve) as endpoint:
        connection = Connection(endpoint)
        with pytest.raises(DriverError, match="stream not found"):
            connection.ask("STREAM.INFO.q", None)
        connection.stream.close()


def _open_amqp(connection: socket.socket) -> None:
    connection.recv(8, socket.MSG_WAITALL)
    for request, answer in (
        (None, (10, 10)),
        ((10, 11), (10, 30)),
        ((10, 40), (10, 41)),
        ((20, 10), (20, 11)),
        ((85, 10), (85, 11)),
    ):
        while request is not None:
            head = connection.recv(7, socket.MSG_WAITALL)
            _, _, size = struct.unpack(">BHI", head)
            payload = connection.recv(size + 1, socket.MSG_WAITALL)
            if struct.unpack_from(">HH", payload) == request:
                break
        connection.sendall(method(0, answer, b""))


def _confirmation(tag: int, *, multiple: bool) -> bytes:
    return method(1, (60, 80), struct.pack(">QB", tag, multiple))


def test_an_amqp_producer_counts_each_confirmation_once() -> None:
    def serve(connection: socket.socket) -> None:
        _open_amqp(connection)
        parts = [(2, False), (1, False), (4, True), (6, False), (7, True), (8, False)]
        data = b"".join(_confirmation(tag, multiple=multiple) for tag, multiple in parts)
        connection.sendall(data[:30])
        connection.sendall(data[30:])

    with scripted(serve) as endpoint:
        producer = AmqpProducer(endpoint, "q")
        found = producer.confirmed()
        while len(found) < 8:
            producer.stream.fill()
            found += producer.confirmed()
        producer.stream.close()
    assert found == [1, 0, 2, 3, 5, 4, 6, 7]


def test_a_message_of_amqp_is_a_method_a_header_and_a_body() -> None:
    with scripted(_open_amqp) as endpoint:
        producer = AmqpProducer(endpoint, "q")
        wrapped = producer.wrap(0, b"body")
        producer.stream.close()
    publish = method(1, (60, 40), b"\x00\x00\x00\x01q\x00")
    header = frame(2, 1, struct.pack(">HHQHB", 60, 0, 4, 0x1000, 2))
    assert wrapped == publish + header + frame(3, 1, b"body")


def test_anything_but_a_confirmation_ends_an_amqp_producer() -> None:
    def serve(connection: socket.socket) -> None:
        _open_amqp(connection)
        # Behind the first message, or it might come together with the answer before it.
        connection.recv(1)
        connection.sendall(method(1, (60, 120), struct.pack(">QB", 1, 0)))

    with scripted(serve) as endpoint:
        producer = AmqpProducer(endpoint, "q")
        producer.stream.send(b"x")
        producer.stream.fill()
        with pytest.raises(DriverError, match="instead of a confirmation"):
            producer.confirmed()
        producer.stream.close()


def test_a_table_of_amqp_holds_texts_and_numbers() -> None:
    assert table({"a": "xy", "b": 3}) == b"\x00\x00\x00\x10\x01aS\x00\x00\x00\x02xy\x01bI\x00\x00\x00\x03"


def test_a_window_is_never_overdrawn_and_warming_up_counts_on() -> None:
    outstanding: list[int] = []

    def serve(connection: socket.socket) -> None:
        _welcome(connection)
        _read_until(connection, b"* 1\r\n")
        data, open_count = b"", 0
        reply = b'{"stream":"q", "seq":1}'
        for _ in range(30):
            while data.count(b"PUB ") == 0 or not data.endswith(b"}\r\n"):
                data += connection.recv(65536)
            subjects = [line.split()[2] for line in data.split(b"\r\n") if line.startswith(b"PUB ")]
            open_count = len(subjects)
            outstanding.append(open_count)
            connection.sendall(b"".join(b"MSG %b 1 %d\r\n%b\r\n" % (s, len(reply), reply) for s in subjects))
            data = b""
            if sum(outstanding) == 120:
                return

    with scripted(serve) as endpoint:
        job = Job(role="produce", endpoints=[endpoint], queues=["q"], count=100, window=10, size_bytes=64)
        producer = NatsProducer(endpoint, "q")
        window = Window(job, producer, Source(job))
        window.send_all(20)
        assert window.first == 0
        window.send_all(100)
        assert window.first == 20
        producer.stream.close()
    assert max(outstanding) <= 10
    assert window.latencies().count == 100
    assert all(done > sent for done, sent in zip(window.done_ns, window.sent_ns, strict=True))
