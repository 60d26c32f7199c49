"""The client's end of a WebSocket, by bytes alone."""

from __future__ import annotations

import pytest
import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, RejectConnection, Request

from logbroker.errors import LogBrokerError, RemoteProtocolError, ShuttingDownError, UnavailableError
from logbroker.wire.requests import STREAM_PATH, SUBPROTOCOL
from logbroker_client.web_socket import WebSocket


class Server:
    """The other end, by wsproto alone."""

    def __init__(self) -> None:
        self.below = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self.events: list[wsproto.events.Event] = []

    def take(self, data: bytes) -> None:
        self.below.receive_data(data)
        self.events += self.below.events()


def opened(*, subprotocol: str | None = SUBPROTOCOL, after: bytes = b"") -> tuple[WebSocket, Server, list[bytes]]:
    """A pair whose handshake is made; `after` comes with the server's answer."""
    client, server = WebSocket("ws://node.test:4100", max_message_bytes=1000), Server()
    client.open()
    server.take(client.take_output())
    messages = client.feed(server.below.send(AcceptConnection(subprotocol=subprotocol)) + after)
    return client, server, messages


def told(client: WebSocket) -> LogBrokerError:
    assert client.error is not None
    return client.error


def test_the_handshake_asks_for_our_protocol_at_our_path() -> None:
    client, server, messages = opened()
    (request,) = server.events
    assert isinstance(request, Request)
    assert (request.host, request.target, request.subprotocols) == ("node.test:4100", STREAM_PATH, [SUBPROTOCOL])
    assert client.is_open
    assert messages == []


def test_a_path_of_the_address_is_kept_and_its_user_is_not_told() -> None:
    client, server = WebSocket("ws://user:secret@node.test/other", max_message_bytes=1000), Server()
    client.open()
    server.take(client.take_output())
    (request,) = server.events
    assert isinstance(request, Request)
    assert (request.host, request.target) == ("node.test", "/other")


def test_messages_go_both_ways_however_they_are_cut() -> None:
    client, server, messages = opened(after=b"\x82\x05early")
    assert messages == [b"early"]
    server.take(b"".join(client.encode(b"question")))
    assert [event.data for event in server.events[1:] if isinstance(event, BytesMessage)] == [b"question"]
    data = server.below.send(BytesMessage(data=b"x" * 500))
    got = client.feed(data[:100])
    while (place := client.place()) is not None:
        taken = min(len(place), 7)
        place[:taken] = b"x" * taken
        got += client.filled(taken)
    assert got == [b"x" * 500]


def test_an_answer_to_the_handshake_may_come_in_pieces() -> None:
    client, server = WebSocket("ws://node.test", max_message_bytes=1000), Server()
    client.open()
    server.take(client.take_output())
    for byte in server.below.send(AcceptConnection(subprotocol=SUBPROTOCOL)):
        assert not client.is_open
        assert client.feed(bytes((byte,))) == []
    assert client.is_open


def test_a_ping_is_answered_and_a_goodbye_too() -> None:
    client, server, _ = opened()
    client.feed(server.below.send(Ping(payload=b"there?")))
    server.take(client.take_output())
    assert server.events[-1] == Pong(payload=b"there?")
    client.feed(server.below.send(CloseConnection(code=1012, reason="restart")))
    server.take(client.take_output())
    assert isinstance(server.events[-1], CloseConnection)
    assert isinstance(client.error, ShuttingDownError)
    assert told(client).message == "the connection ended with code 1012: restart"
    assert client.feed(b"\x82\x01x") == []


def test_our_goodbye_is_over_when_it_is_answered() -> None:
    client, server, _ = opened()
    client.close()
    server.take(client.take_output())
    goodbye = server.events[-1]
    assert isinstance(goodbye, CloseConnection)
    before = client.error
    assert before is None
    client.feed(server.below.send(goodbye.response()))
    assert isinstance(client.error, UnavailableError)
    assert client.take_output() == b""


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno", UnavailableError, "HTTP status 404"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", RemoteProtocolError, "does not speak as a WebSocket does"),
        (b"x" * 70_000, RemoteProtocolError, "no end of its head within 65536 bytes"),
    ],
)
def test_what_is_no_websocket_is_told_with_a_hint(data: bytes, kind: type[LogBrokerError], text: str) -> None:
    client = WebSocket("ws://node.test", max_message_bytes=1000)
    client.open()
    client.feed(data)
    assert type(client.error) is kind
    assert text in told(client).message
    assert told(client).hint == "is it the client port of a logbroker node?"


def test_a_server_of_another_protocol_is_not_talked_to() -> None:
    client, _, _ = opened(subprotocol=None)
    assert "speaks no subprotocol, not logbroker.v1.msgpack" in told(client).message
    assert not client.is_open


def test_what_breaks_a_rule_ends_it_after_the_messages_before() -> None:
    client, _, _ = opened()
    assert client.feed(b"\x82\x01a" + b"\x81\x01b") == [b"a"]
    assert isinstance(client.error, RemoteProtocolError)
    assert "a text message" in told(client).message
    client, _, _ = opened()
    assert client.feed(b"\x82\x7e\x04\x00") == []
    assert "a message of 1024 bytes or more; the most is 1000" in told(client).message


def test_a_refusal_needs_no_body() -> None:
    client, server = WebSocket("ws://node.test", max_message_bytes=1000), Server()
    client.open()
    server.take(client.take_output())
    client.feed(server.below.send(RejectConnection(status_code=401, has_body=False)))
    assert "HTTP status 401" in told(client).message
