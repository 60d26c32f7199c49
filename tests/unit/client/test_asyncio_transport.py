"""What only the asyncio transport has to be careful with: its kind of cancellation, sockets and TLS."""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from wsproto.events import AcceptConnection, CloseConnection

from logbroker.errors import LogBrokerError, RemoteProtocolError, UnavailableError
from logbroker.wire.data_frames import message_head
from logbroker.wire.frames import encode_frame
from logbroker.wire.requests import SUBPROTOCOL, AnyReply, Pong, Welcome, WireLimits, encode_header
from logbroker_client.asyncio import connect
from logbroker_client.asyncio_transport import Connection, wait_among, wake, within_until
from logbroker_client.core import ClientCore
from logbroker_client.options import ClientOptions
from logbroker_client.waits import system_environment
from tests.contract.client_kit import fake_nodes
from tests.fake_broker import FakeCluster
from tests.unit.client.test_web_socket import Server

if TYPE_CHECKING:
    from collections.abc import Coroutine


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main, debug=True)
    # A socket that was forgotten says so now.
    gc.collect()


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_waiters() -> None:
    async def main() -> None:
        waiters: dict[object, Any] = {}
        undone: list[int] = []
        task = asyncio.create_task(wait_among(waiters, 60, undo=lambda: undone.append(60)))
        await asyncio.sleep(0)
        assert list(waiters.values()) == [60]
        task.cancel()
        await asyncio.wait([task])
        assert (waiters, undone) == ({}, [])

    run(main())


def test_a_task_that_is_cancelled_after_it_was_woken_gives_back_what_it_got() -> None:
    async def main() -> None:
        waiters: dict[object, Any] = {}
        undone: list[int] = []
        task = asyncio.create_task(wait_among(waiters, 60, undo=lambda: undone.append(60)))
        await asyncio.sleep(0)
        wake(waiters)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert undone == [60]

    run(main())


def test_waking_a_task_that_is_cancelled_and_does_not_know_it_yet_is_undone_too() -> None:
    async def main() -> None:
        waiters: dict[object, Any] = {}
        undone: list[int] = []
        task = asyncio.create_task(wait_among(waiters, 60, undo=lambda: undone.append(60)))
        await asyncio.sleep(0)
        task.cancel()
        wake(waiters)
        await asyncio.wait([task])
        assert undone == [60]

    run(main())


def test_the_time_that_something_may_take_is_no_error_and_its_own_timeout_is() -> None:
    async def fail() -> None:
        raise TimeoutError("its own")

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        await within_until(now, asyncio.Event().wait)
        with pytest.raises(TimeoutError, match="its own"):
            await within_until(now + 10, fail)

    run(main())


async def failure_of(answer: bytes, *, closes: bool = False) -> LogBrokerError:
    """Why no connection could be made to a server that says `answer` to everything."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client's time may end when it is connected and has not asked yet: it leaves, and that is no failure here.
        with closing(writer), suppress(EOFError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if not closes:
                await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LogBrokerError) as raised:
            async with connect(f"ws://127.0.0.1:{port}", timeout=0.5, connect_timeout=0.2):
                raise AssertionError("not reached")
        return raised.value


@pytest.mark.parametrize(
    ("answer", "closes", "text"),
    [
        (b"", False, "no welcome within 0.2 s"),
        (b"", True, "the connection ended"),
        (b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n", False, "HTTP status 426"),
    ],
)
def test_a_server_that_is_none_is_given_up_with_its_reason(answer: bytes, closes: bool, text: str) -> None:
    async def main() -> None:
        error = await failure_of(answer, closes=closes)
        assert isinstance(error, UnavailableError)
        assert text in error.message

    run(main())


def test_tls_goes_by_the_context_that_is_given() -> None:
    authority = trustme.CA()
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    cluster = FakeCluster()
    cluster.add_queue("orders")

    async def main(url: str) -> None:
        async with connect(url, tls=trusting) as client, client.producer("orders") as producer:
            assert len(await producer.send_many([b"x" * 100_000] * 5)) == 5
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            async with connect(url, timeout=0.5):
                raise AssertionError("not reached")

    with fake_nodes(cluster, tls=served) as world:
        run(main(world.urls[0]))


class Pipe(asyncio.Transport):
    """A socket that takes down what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None: ...

    def take(self) -> bytes:
        written, self.written = self.written, []
        return b"".join(written)


def feed(connection: Connection, data: bytes) -> None:
    """Bytes come from the socket, in as many pieces as there are places for them."""
    while data:
        place = connection.get_buffer(-1)
        size_bytes = min(len(place), len(data))
        place[:size_bytes] = data[:size_bytes]
        connection.buffer_updated(size_bytes)
        data = data[size_bytes:]


def greeted(loop: asyncio.AbstractEventLoop) -> tuple[ClientCore, Connection, Pipe, Server]:
    """A connection whose WebSocket is there, and a question that waits for the welcome."""
    env = system_environment(clock=loop.time, wake=wake, on_work=lambda: None)
    core = ClientCore(["ws://node.test:4100"], env=env, options=ClientOptions(close_timeout_s=0.01))
    core.ask_metadata([], timeout_s=5)
    (link,) = core.take_dials()
    connection, pipe, server = Connection(core, link), Pipe(), Server()
    connection.connection_made(pipe)
    server.take(pipe.take())
    feed(connection, server.below.send(AcceptConnection(subprotocol=SUBPROTOCOL)))
    return core, connection, pipe, server


def answer(reply: AnyReply) -> bytes:
    frame = encode_frame(encode_header(reply))
    return message_head(len(frame)) + frame


WELCOME = Welcome(1, version=1, node=1, cluster="c", limits=WireLimits())


def test_nothing_is_written_while_the_socket_takes_nothing() -> None:
    async def main() -> None:
        _, connection, pipe, _ = greeted(asyncio.get_running_loop())
        await asyncio.sleep(0)
        assert pipe.take() != b""
        connection.pause_writing()
        feed(connection, answer(WELCOME))
        await asyncio.sleep(0)
        assert connection.greeted.done()
        assert pipe.take() == b""
        connection.resume_writing()
        await asyncio.sleep(0)
        assert pipe.take() != b""

    run(main())


def test_a_goodbye_that_is_not_answered_ends_in_time() -> None:
    async def main() -> None:
        _, connection, pipe, server = greeted(asyncio.get_running_loop())
        feed(connection, answer(WELCOME))
        connection.say_goodbye()
        assert (await connection.ended).message == "the connection ended: no goodbye in time"
        server.take(pipe.take())
        assert isinstance(server.events[-1], CloseConnection)

    run(main())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x82\x01x", "frame"),
        (b"\x81\x01x", "a text message"),
        (answer(Pong(77)), "answers nothing|is no answer to Hello"),
    ],
)
def test_what_a_server_may_not_send_ends_the_connection(data: bytes, text: str) -> None:
    async def main() -> None:
        _, connection, _, _ = greeted(asyncio.get_running_loop())
        feed(connection, data)
        error = await connection.ended
        assert isinstance(error, RemoteProtocolError)
        assert re.search(text, error.message)
        # What comes after it is not looked at.
        feed(connection, answer(WELCOME))

    run(main())


def test_a_mistake_of_ours_is_no_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        core, connection, _, _ = greeted(asyncio.get_running_loop())
        monkeypatch.setattr(core, "received", fail)
        feed(connection, answer(WELCOME))
        with pytest.raises(ZeroDivisionError):
            await connection.ended

    run(main())


def test_a_client_is_cancelled_while_it_connects_and_leaves_nothing() -> None:
    async def main() -> None:
        connected = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.set()
            with closing(writer):
                await reader.read()

        async def use(url: str) -> None:
            async with connect(url):
                raise AssertionError("not reached")

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            task = asyncio.create_task(use(f"ws://127.0.0.1:{port}"))
            await connected.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    run(main())
