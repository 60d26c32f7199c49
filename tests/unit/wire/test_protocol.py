from __future__ import annotations

import pytest

from logbroker.errors import (
    InvalidArgumentError,
    LocalProtocolError,
    NotFoundError,
    RemoteProtocolError,
    UnauthenticatedError,
)
from logbroker.wire.failures import error_reply
from logbroker.wire.frames import encode_frame
from logbroker.wire.protocol import ClientProtocol, ServerProtocol, State
from logbroker.wire.requests import (
    AnyRequest,
    BatchPart,
    Delivered,
    Done,
    Error,
    Hello,
    ListQueues,
    Metadata,
    MetadataReply,
    Ping,
    Pong,
    Produce,
    Produced,
    QueueList,
    Receive,
    Received,
    Reply,
    Subscribe,
    Unsubscribed,
    Welcome,
    WireLimits,
    encode_header,
)


def framed(header: AnyRequest | Reply, body: bytes = b"") -> bytes:
    return encode_frame(encode_header(header), body)


def welcome(rid: int = 1, limits: WireLimits | None = None) -> Welcome:
    return Welcome(rid, version=1, node=2, cluster="c", limits=limits or WireLimits())


def produce(rid: int) -> Produce:
    return Produce(rid, queue="orders", partition=0)


def receive(rid: int) -> Receive:
    return Receive(
        rid,
        queue="orders",
        partition=0,
        group="default",
        max_count=10,
        max_bytes=1000,
        hide_ms=1000,
        wait_ms=0,
        session=1,
        request_id=rid,
    )


def open_server(limits: WireLimits | None = None) -> ServerProtocol:
    server = ServerProtocol(limits=limits)
    assert server.receive(framed(Hello(1))) == [(Hello(1), b"")]
    server.reply(welcome(1, server.limits))
    assert server.next_message() is not None
    return server


def open_client(limits: WireLimits | None = None) -> ClientProtocol[str]:
    client = ClientProtocol[str]()
    client.greet(Hello(client.take_rid()))
    client.next_message()
    assert client.receive(framed(welcome(1, limits))) == []
    assert client.state is State.OPEN
    return client


def subscribe(rid: int) -> Subscribe:
    return Subscribe(
        rid,
        queue="orders",
        partition=0,
        group="default",
        hide_ms=1000,
        credit_count=5,
        credit_bytes=1 << 20,
        max_count=5,
        max_bytes=1000,
    )


def delivered(rid: int, size_bytes: int = 3) -> Delivered:
    part = BatchPart(size_bytes=size_bytes, base_offset=0, append_ms=0, ranges=[(0, 1, 1)])
    return Delivered(
        rid, lease=1, visible_at_ms=0, hide_left_ms=0, parts=[part], credit_count=4, credit_bytes=(1 << 20) - 3
    )


# --- streams ---


def test_a_subscribe_is_open_through_any_number_of_deliveries_until_its_reply() -> None:
    server, client = open_server(), open_client()
    rid = client.take_rid()
    client.send(subscribe(rid), "stream")
    message = client.next_message()
    assert message is not None
    assert server.receive(message) == [(subscribe(rid), b"")]
    for _ in range(2):
        server.push(delivered(rid), b"abc")
    pushed = server.next_message()
    assert pushed is not None
    assert client.receive(pushed) == [("stream", delivered(rid), b"abc")] * 2
    assert (client.outstanding_count, server.outstanding_count) == (1, 1)
    server.reply(Unsubscribed(rid, count=2))
    last = server.next_message()
    assert last is not None
    assert client.receive(last) == [("stream", Unsubscribed(rid, count=2), b"")]
    assert (client.outstanding_count, server.outstanding_count) == (0, 0)
    with pytest.raises(LocalProtocolError, match="is pushed to nobody"):
        server.push(delivered(rid), b"abc")
    with pytest.raises(RemoteProtocolError, match="Delivered has a body of 3 bytes"):
        client.receive(pushed)


def test_only_a_subscribe_has_something_pushed() -> None:
    server, client = open_server(), open_client()
    server.receive(framed(receive(2)))
    with pytest.raises(LocalProtocolError, match="Delivered with rid 2 is pushed to nobody"):
        server.push(delivered(2), b"abc")
    client.send(receive(client.take_rid()), "receive")
    with pytest.raises(RemoteProtocolError, match="Delivered is no answer to Receive"):
        client.receive(framed(delivered(2), b"abc"))


def test_a_delivery_has_the_body_that_its_parts_say() -> None:
    client = open_client()
    client.send(subscribe(client.take_rid()), "stream")
    with pytest.raises(RemoteProtocolError, match="parts of 4 bytes stand for a body of 3 bytes"):
        client.receive(framed(delivered(2, size_bytes=4), b"abc"))


# --- both ends together ---


def test_a_conversation_from_hello_to_reply() -> None:
    client, server = ClientProtocol[str](), ServerProtocol()
    client.greet(Hello(client.take_rid(), token="t", session=9))
    said = client.next_message()
    assert said is not None
    [(hello, _)] = server.receive(said)
    assert server.hello == hello
    assert server.negotiate() == 1
    server.reply(welcome(hello.rid, WireLimits(max_outstanding=3)))
    answered = server.next_message()
    assert answered is not None
    assert client.receive(answered) == []
    assert client.welcome is not None
    assert (client.welcome.node, client.limits.max_outstanding) == (2, 3)

    client.send(produce(client.take_rid()), "first", b"batch 1")
    client.send(produce(client.take_rid()), "second", b"batch 2")
    said = client.next_message()
    assert said is not None
    requests = server.receive(said)
    assert [(type(request), body) for request, body in requests] == [(Produce, b"batch 1"), (Produce, b"batch 2")]

    # The second is answered first.
    second = Produced(requests[1][0].rid, base_offset=1, count=1, append_ms=5)
    first = Produced(requests[0][0].rid, base_offset=0, count=1, append_ms=5)
    server.reply(second)
    server.reply(first)
    answered = server.next_message()
    assert answered is not None
    assert client.receive(answered) == [("second", second, b""), ("first", first, b"")]
    assert (client.outstanding_count, server.outstanding_count) == (0, 0)


# --- server ---


def test_the_first_frame_must_be_hello() -> None:
    with pytest.raises(RemoteProtocolError, match="the first frame is ListQueues, not Hello"):
        ServerProtocol().receive(framed(ListQueues(1)))


def test_a_ping_before_hello_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="the first frame is Ping"):
        ServerProtocol().receive(framed(Ping(1)))


def test_nothing_may_follow_hello_before_its_reply() -> None:
    server = ServerProtocol()
    with pytest.raises(RemoteProtocolError, match="ListQueues in state GREETED"):
        server.receive(framed(Hello(1)) + framed(ListQueues(2)))


def test_hello_comes_once() -> None:
    with pytest.raises(RemoteProtocolError, match="Hello in state OPEN"):
        open_server().receive(framed(Hello(2)))


@pytest.mark.parametrize(("oldest", "newest", "agreed"), [(1, 1, 1), (1, 9, 3), (3, 9, 3), (2, 2, 2)])
def test_the_largest_version_that_both_speak_is_taken(oldest: int, newest: int, agreed: int) -> None:
    server = ServerProtocol(oldest_version=1, newest_version=3)
    server.receive(framed(Hello(1, version=newest, oldest_version=oldest)))
    assert server.negotiate() == agreed


@pytest.mark.parametrize(("oldest", "newest"), [(4, 9), (1, 1)])
def test_without_a_common_version_the_answer_says_what_is_spoken(oldest: int, newest: int) -> None:
    server = ServerProtocol(oldest_version=2, newest_version=3)
    server.receive(framed(Hello(1, version=newest, oldest_version=oldest)))
    with pytest.raises(InvalidArgumentError, match="this node speaks 2 to 3"):
        server.negotiate()


def test_an_error_in_answer_to_hello_closes_after_it_is_sent() -> None:
    server = ServerProtocol()
    server.receive(framed(Hello(1)))
    server.reply(error_reply(UnauthenticatedError("no such token"), rid=1))
    assert server.state is State.CLOSED
    assert server.next_message() is not None
    with pytest.raises(LocalProtocolError, match="closed"):
        server.receive(framed(ListQueues(2)))


def test_a_ping_is_answered_without_the_owner() -> None:
    server = open_server()
    assert server.receive(framed(Ping(5))) == []
    assert server.next_message() == framed(Pong(5))


def test_a_rid_is_free_again_after_its_reply() -> None:
    server = open_server()
    server.receive(framed(ListQueues(5)))
    with pytest.raises(RemoteProtocolError, match="rid 5 of ListQueues is not free"):
        server.receive(framed(ListQueues(5)))
    server.reply(error_reply(NotFoundError("nothing"), rid=5))
    assert [request.rid for request, _ in server.receive(framed(ListQueues(5)))] == [5]


def test_rid_0_belongs_to_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="rid 0 of ListQueues is not free"):
        open_server().receive(framed(ListQueues(0)))


def test_outstanding_requests_are_bounded() -> None:
    server = open_server(WireLimits(max_outstanding=2))
    server.receive(framed(ListQueues(5)) + framed(ListQueues(6)))
    with pytest.raises(RemoteProtocolError, match="more than 2 requests are outstanding"):
        server.receive(framed(ListQueues(7)))


def test_pings_of_one_message_are_bounded() -> None:
    server = open_server(WireLimits(max_outstanding=2))
    server.receive(framed(Ping(5)) * 2)
    with pytest.raises(RemoteProtocolError, match="more than 2 pings are in one message"):
        server.receive(framed(Ping(5)) * 3)


def test_headers_of_one_message_are_bounded_together() -> None:
    server = open_server()
    large = [framed(Metadata(rid, queues=["q" * 1_000] * 60)) for rid in range(1, 6)]
    server.receive(b"".join(large[:4]))
    assert 240_000 < server.header_bytes < 256 * 1024
    with pytest.raises(RemoteProtocolError, match="the headers of a message have more than 262144 bytes"):
        open_server().receive(b"".join(large))


def test_a_body_where_none_belongs_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="ListQueues has a body of 4 bytes"):
        open_server().receive(framed(ListQueues(5), b"body"))


def test_a_batch_larger_than_the_limit_is_refused() -> None:
    server = open_server(WireLimits(max_batch_bytes=10))
    with pytest.raises(RemoteProtocolError, match="body of 11 bytes"):
        server.receive(framed(produce(5), b"b" * 11))


def test_a_reply_must_answer_something() -> None:
    server = open_server()
    with pytest.raises(LocalProtocolError, match="rid 9, which is not outstanding"):
        server.reply(Done(9))


def test_a_reply_must_be_of_the_kind_asked_for() -> None:
    server = open_server()
    server.receive(framed(ListQueues(5)))
    with pytest.raises(LocalProtocolError, match="Done is no answer to ListQueues"):
        server.reply(Done(5))


def test_an_error_of_the_connection_is_its_last_word() -> None:
    server = open_server()
    server.reply(error_reply(RemoteProtocolError("garbage")))
    assert server.next_message() is not None
    with pytest.raises(LocalProtocolError, match="closed"):
        server.reply(Done(5))


def test_a_closed_server_sends_nothing_more() -> None:
    server = open_server()
    server.receive(framed(Ping(5)))
    assert server.pending_bytes == len(framed(Pong(5)))
    server.close()
    assert server.next_message() is None


# --- client ---


def test_nothing_is_sent_before_the_welcome() -> None:
    client = ClientProtocol[str]()
    assert not client.can_send()
    with pytest.raises(LocalProtocolError, match="state OPENING"):
        client.send(ListQueues(1), "list")
    client.greet(Hello(1))
    with pytest.raises(LocalProtocolError, match="state GREETED"):
        client.send(ListQueues(2), "list")
    with pytest.raises(LocalProtocolError, match="Hello in state GREETED"):
        client.greet(Hello(2))


def test_a_refused_hello_raises_the_servers_reason() -> None:
    client = ClientProtocol[str]()
    client.greet(Hello(client.take_rid()))
    with pytest.raises(UnauthenticatedError, match="no such token"):
        client.receive(framed(error_reply(UnauthenticatedError("no such token"), rid=1)))
    assert client.state is State.CLOSED


@pytest.mark.parametrize("reply", [Pong(1), welcome(rid=2), Done(1)])
def test_anything_else_than_welcome_is_no_answer_to_hello(reply: Reply) -> None:
    client = ClientProtocol[str]()
    client.greet(Hello(client.take_rid()))
    with pytest.raises(RemoteProtocolError, match="is no answer to Hello"):
        client.receive(framed(reply))


def test_a_version_that_was_not_offered_is_refused() -> None:
    client = ClientProtocol[str]()
    client.greet(Hello(client.take_rid()))
    with pytest.raises(RemoteProtocolError, match="version 2 is outside 1 to 1"):
        client.receive(framed(Welcome(1, version=2, node=1, cluster="c", limits=WireLimits())))


def test_the_client_keeps_to_the_servers_bound() -> None:
    client = open_client(WireLimits(max_outstanding=1))
    client.send(ListQueues(client.take_rid()), "one")
    assert not client.can_send()
    with pytest.raises(LocalProtocolError, match="1 outstanding"):
        client.send(ListQueues(client.take_rid()), "two")


def test_hello_and_ping_have_methods_of_their_own() -> None:
    client = open_client()
    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        client.send(Ping(client.take_rid()), "ping")


def test_one_ping_is_outstanding_at_most() -> None:
    client = open_client()
    assert client.ping()
    assert not client.ping()
    assert client.receive(framed(Pong(2))) == []
    assert client.ping()


def test_a_pong_that_answers_nothing_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="Pong with rid 7"):
        open_client().receive(framed(Pong(7)))


def test_a_reply_that_answers_nothing_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="Done with rid 7 in state OPEN answers nothing"):
        open_client().receive(framed(Done(7)))


def test_a_reply_of_another_kind_is_refused() -> None:
    client = open_client()
    client.send(Metadata(client.take_rid()), "metadata")
    with pytest.raises(RemoteProtocolError, match="Done is no answer to Metadata"):
        client.receive(framed(Done(2)))


def test_a_second_reply_is_refused() -> None:
    client = open_client()
    client.send(Metadata(client.take_rid()), "metadata")
    reply = MetadataReply(2, nodes=[], queues=[])
    assert client.receive(framed(reply)) == [("metadata", reply, b"")]
    with pytest.raises(RemoteProtocolError, match="answers nothing"):
        client.receive(framed(reply))


def test_an_error_may_answer_anything() -> None:
    client = open_client()
    client.send(Metadata(client.take_rid()), "metadata")
    [(context, reply, _)] = client.receive(framed(error_reply(NotFoundError("none"), rid=2)))
    assert context == "metadata"
    assert isinstance(reply, Error)


def test_an_error_of_the_connection_is_raised() -> None:
    client = open_client()
    with pytest.raises(RemoteProtocolError, match="garbage"):
        client.receive(framed(error_reply(RemoteProtocolError("garbage"))))
    assert client.state is State.CLOSED


def test_parts_must_be_exactly_the_body() -> None:
    part = BatchPart(size_bytes=3, base_offset=0, append_ms=0, ranges=[(0, 1, 1)])
    reply = Received(2, lease=1, visible_at_ms=0, hide_left_ms=0, parts=[part, part])
    client = open_client()
    client.send(receive(client.take_rid()), "receive")
    with pytest.raises(RemoteProtocolError, match="parts of 6 bytes stand for a body of 5 bytes"):
        client.receive(framed(reply, b"12345"))
    assert client.receive(framed(reply, b"123456")) == [("receive", reply, b"123456")]


def test_a_body_on_another_reply_is_refused() -> None:
    client = open_client()
    client.send(ListQueues(client.take_rid()), "list")
    with pytest.raises(RemoteProtocolError, match="Error has a body"):
        client.receive(framed(error_reply(NotFoundError("none"), rid=2), b"body"))
    with pytest.raises(RemoteProtocolError, match="Pong has a body"):
        client.receive(framed(Pong(9), b"body"))


def test_replies_before_a_broken_frame_count_as_not_seen() -> None:
    client = open_client()
    client.send(ListQueues(client.take_rid()), "one")
    client.send(Metadata(client.take_rid()), "two")
    with pytest.raises(RemoteProtocolError, match="answers nothing"):
        client.receive(framed(QueueList(2, queues=[])) + framed(Done(99)))
    assert sorted(client.close()) == ["one", "two"]


def test_closing_gives_what_has_no_answer() -> None:
    client = open_client()
    client.send(ListQueues(client.take_rid()), "one")
    client.send(ListQueues(client.take_rid()), "two")
    assert client.close() == ["one", "two"]
    assert client.next_message() is None
    assert client.close() == []
    with pytest.raises(LocalProtocolError, match="closed"):
        client.receive(framed(Done(2)))
