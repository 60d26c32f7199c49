"""Clients that are slow, silent, many, or half there: what they take is bounded in number, bytes and time, and the
others go on.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from logbroker.config.limits import connections_bytes
from logbroker.ids import LeaseId, Offset
from logbroker.node.requests import Part, ProduceReply, ProduceRequest, ReceiveReply, ReceiveRequest, ReleaseRequest
from logbroker.wire.requests import Error, Hello, ListQueues, Ping, Produce, Receive, Subscribe, Welcome
from tests.hostile.kit import HANG_S, Stranger, bystander, connected, framed, service_of, soon, until, ws
from tests.unit.server.kit import FakeBackend, expect
from tests.unit.server.raw import OFFER, UPGRADE, serving

if TYPE_CHECKING:
    from logbroker.server.service import ClientService

HEADS = {
    "nothing": b"",
    "half a request line": b"GET /v1/str",
    "no end": UPGRADE + OFFER,
    "half a TLS hello": b"\x16\x03\x01",
    "a body that does not come": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    "chunks that do not come": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a promise to wait": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
}


def subscribe(rid: int) -> Subscribe:
    return Subscribe(
        rid,
        queue="orders",
        partition=0,
        group="default",
        hide_ms=1000,
        credit_count=100_000,
        credit_bytes=64 << 20,
        max_count=1,
        max_bytes=1 << 20,
    )


def receive(rid: int, *, wait_ms: int = 20_000) -> Receive:
    return Receive(
        rid,
        queue="orders",
        partition=0,
        group="default",
        max_count=10,
        max_bytes=1 << 20,
        hide_ms=30_000,
        wait_ms=wait_ms,
        session=5,
        request_id=rid,
    )


def fake_of(service: ClientService) -> FakeBackend:
    return expect(FakeBackend, service.backend)


# --- before the stream is open ---


@pytest.mark.parametrize("name", HEADS)
async def test_a_request_that_does_not_go_on_is_dropped_at_the_deadline(name: str) -> None:
    service = service_of(timeouts={"handshake_ms": 200})
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await stranger.send(HEADS[name])
        with soon():
            await until(lambda: listener.connection_count == 1)
        assert service.measures.unauthenticated == 0


async def test_a_head_of_one_byte_at_a_time_has_one_deadline_for_all_of_it() -> None:
    service = service_of(timeouts={"handshake_ms": 300})
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        began_s = trio.current_time()
        for byte in (UPGRADE + OFFER) * 100:
            await stranger.send(bytes((byte,)))
            await trio.sleep(0.002)
            if listener.connection_count == 1 and trio.current_time() > began_s + 0.2:
                break
        assert trio.current_time() - began_s < 5


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4_000 + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 20_000,
        b"\xff" * 20_000,
        b"\r\n" * 20_000,
    ],
    ids=lambda head: repr(head[:40]),
)
async def test_what_is_no_request_is_refused_or_dropped_at_once(head: bytes) -> None:
    service = service_of(timeouts={"handshake_ms": 500})
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await stranger.send(head)
        answer = b""
        with soon():
            while data := await stranger.stream.receive_some():
                answer += bytes(data)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
        await stranger.stream.aclose()
        await until(lambda: listener.connection_count == 1)


async def test_half_open_handshakes_are_bounded_in_number_and_in_time() -> None:
    """At each stage: connected, in the head, after the upgrade, in the hello."""
    limits = {"max_unauthenticated_connections": 40}
    service = service_of(limits=limits, timeouts={"handshake_ms": 700, "hello_ms": 700, "close_ms": 100})
    begun = [b"", UPGRADE, UPGRADE + OFFER + b"\r\n", UPGRADE + OFFER + b"\r\n" + ws(framed(Hello(1)))[:-1]]
    async with serving(service) as (listener, port), bystander(port), AsyncExitStack() as many:
        for number in range(120):
            stranger = await many.enter_async_context(connected(port))
            await stranger.send(begun[number % len(begun)])
        await until(lambda: service.measures.accepted + sum(service.measures.refused.values()) == 121)
        assert service.measures.refused == {"max_unauthenticated_connections": 80}
        assert listener.connection_count == 41
        with soon():
            await until(lambda: listener.connection_count == 1)
        assert service.measures.unauthenticated == 0


async def test_a_flood_of_connections_leaves_those_that_are_there_alone() -> None:
    limits = {"max_connections": 50, "max_connections_per_address": 50, "max_unauthenticated_connections": 50}
    service = service_of(limits=limits)
    async with serving(service) as (listener, port), bystander(port), AsyncExitStack() as many:

        async def stay() -> None:
            try:
                stranger = await many.enter_async_context(connected(port))
                await stranger.send(UPGRADE + OFFER + b"\r\n" + ws(framed(Hello(1))))
            except OSError:
                # The kernel's queue is full: that one is not there at all.
                return

        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(stay)
        await until(lambda: listener.connection_count == 50)
        await until(lambda: sum(service.measures.refused.values()) >= 200)
        await many.aclose()
        await until(lambda: listener.connection_count == 1)
        async with connected(port) as late:
            assert isinstance(await late.greet(), Welcome)


async def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    service = service_of()
    async with serving(service) as (listener, port), bystander(port):
        for number in range(200):
            async with connected(port) as stranger:
                if number % 3:
                    await stranger.send(UPGRADE + OFFER + b"\r\n")
                if number % 3 == 2:
                    await stranger.send(ws(framed(Hello(1), receive(2))))
        await until(lambda: listener.connection_count == 1)
        assert (service.measures.unauthenticated, service.measures.waiting_receives) == (0, 0)


# --- readers that stop ---


async def refuse_to_read(stranger: Stranger) -> None:
    """As little as the kernel allows waits on this side."""
    stranger.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)


async def test_who_asks_and_does_not_read_is_not_read_from_and_holds_no_more_than_its_bound() -> None:
    limits = {"max_reply_bytes": 2 << 20, "max_inflight_bytes": 1 << 20, "max_inflight_requests": 500}
    service = service_of(limits=limits, timeouts={"send_ms": int(600 * HANG_S)})
    peak_bytes = 0
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await refuse_to_read(stranger)
        await stranger.greet()
        # Lists are answered with more than they ask; pings are the cheapest of all.
        message = ws(framed(*[ListQueues(rid) for rid in range(1, 400)], *[Ping(5)] * 400))
        # Until the server has waited long enough for a reader and closes.
        with trio.move_on_after(10), suppress(trio.BrokenResourceError):
            while True:
                await stranger.stream.send_all(message)
                peak_bytes = max(peak_bytes, service.measures.held_bytes)
        # Reading stops at half the bound; one message was there before, and what it asks for is answered.
        assert 1 << 20 < peak_bytes < (1 << 20) + 800 * 400
        await until(lambda: listener.connection_count == 1)
        assert service.measures.held_bytes < 1_000


async def test_replies_that_come_all_at_once_for_who_does_not_read_end_the_connection_at_the_bound() -> None:
    service = service_of(limits={"max_reply_bytes": 4 << 20}, timeouts={"close_ms": 100})
    backend = fake_of(service)
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await refuse_to_read(stranger)
        await stranger.greet()
        await stranger.send(ws(framed(*[receive(rid) for rid in range(2, 102)])))
        await until(lambda: len(backend.asked) == 100)
        for number in range(100):
            part = Part(bytes(1 << 20), Offset(number), 1_000, ((number, number + 1, 1),))
            backend.take(ReceiveRequest)[2](ReceiveReply(LeaseId(70 + number), 1, 1, (part,)))
        with soon():
            await until(lambda: listener.connection_count == 1)
            # What was never written goes back: nobody has seen it.
            await until(lambda: service.handover.open_count == 0)
        assert len([request for _, request, _ in backend.asked if isinstance(request, ReleaseRequest)]) >= 80


async def test_streams_for_who_does_not_read_lease_no_more_than_fits_and_hold_up_nobody() -> None:
    service = service_of(limits={"max_reply_bytes": 8 << 20})
    backend = fake_of(service)
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await refuse_to_read(stranger)
        await stranger.greet()
        streams = [subscribe(rid) for rid in range(2, 12)]
        await stranger.send(ws(framed(*streams)))
        await until(lambda: len(backend.asked) == len(streams))
        peak_bytes = leases = rounds = 0
        # The partition has messages without end.
        while any(isinstance(request, ReceiveRequest) for _, request, _ in backend.asked):
            asked, backend.asked = backend.asked, []
            for _, request, answer in asked:
                if not isinstance(request, ReceiveRequest):
                    continue
                leases += 1
                part = Part(bytes(1 << 20), Offset(leases), 1_000, ((leases, leases + 1, 1),))
                answer(ReceiveReply(LeaseId(70 + leases), 1, 1, (part,)))
                peak_bytes = max(peak_bytes, service.measures.held_bytes)
            async with connected(port) as other:
                await other.greet()
                await other.send(ws(framed(ListQueues(2))))
                assert not isinstance(await other.reply(), Error)
            rounds += 1
            assert rounds < 200
        # The credit would let 640 MiB out; what is gone lies in the buffers of the sockets.
        assert service.measures.pushed_deliveries < 32
        assert peak_bytes < 8 << 20
        assert service.measures.closed == {}
        assert listener.connection_count >= 2


async def test_who_settles_nothing_has_so_many_leases_go_back_with_it_and_the_others_keep_theirs() -> None:
    service = service_of(limits={"max_leases_on_close": 10})
    backend = fake_of(service)
    async with serving(service) as (listener, port), bystander(port):
        async with connected(port) as holder, connected(port) as stranger:
            last = 70
            for one, count in ((holder, 5), (stranger, 300)):
                await one.greet()
                for rid in range(2, 2 + count):
                    asked = msgspec.structs.replace(receive(rid), release_on_close=True)
                    await one.send(ws(framed(asked)))
                    await until(lambda: bool(backend.asked))
                    part = Part(b"batch", Offset(last), 1_000, ((last, last + 1, 1),))
                    backend.take(ReceiveRequest)[2](ReceiveReply(LeaseId(last), 43_200_000, 43_200_000, (part,)))
                    assert not isinstance(await one.reply(), Error)
                    last += 1
            assert service.handover.open_count == 5 + 10
            await stranger.stream.aclose()
            with soon():
                await until(lambda: len(backend.asked) == 10)
            assert [request.lease for _, request, _ in backend.asked] == list(range(last - 10, last))  # type: ignore[union-attr]  # releases
            assert listener.connection_count == 2
            backend.asked.clear()
        with soon():
            await until(lambda: len(backend.asked) == 5)


# --- writers that stall ---


def hurried(service: ClientService) -> None:
    """From here on the service's clock runs a hundred times as fast, and a minute of silence is soon over."""
    began_s = trio.current_time()
    service.clock = lambda: began_s + 100 * (trio.current_time() - began_s)


async def test_who_stops_in_a_message_is_closed_after_the_idle_time() -> None:
    service = service_of(timeouts={"close_ms": 100})
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        await stranger.send(ws(size=1 << 20) + bytes(1_000))
        hurried(service)
        with soon():
            said = await stranger.end()
        assert said.close_code == 4408
        await until(lambda: listener.connection_count == 1)


async def test_bytes_of_a_message_that_does_not_end_do_not_count_as_being_heard() -> None:
    service = service_of(timeouts={"close_ms": 100})
    async with serving(service) as (listener, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        await stranger.send(ws(size=1 << 20))
        hurried(service)
        with soon():
            while listener.connection_count > 1:
                await stranger.send(b"x")
                await trio.sleep(0.01)


async def test_requests_that_nobody_answers_stop_the_reading_at_their_bound() -> None:
    service = service_of(limits={"max_inflight_bytes": 2 << 20, "max_inflight_requests": 100})
    async with serving(service) as (_, port), bystander(port), connected(port) as stranger:
        await stranger.greet()
        with trio.move_on_after(HANG_S / 2):
            for rid in range(2, 90):
                await stranger.stream.send_all(
                    ws(framed(Produce(rid, queue="orders", partition=0), body=bytes(1 << 20)))
                )
        asked = len(fake_of(service).asked)
        # Two fill it, with what their headers take; the third was there before.
        assert 2 <= asked <= 3
        assert (2 << 20) <= service.measures.held_bytes <= (2 << 20) + connections_bytes(service.limits, connections=0)


async def test_all_connections_together_hold_no_more_than_the_formula_says() -> None:
    service = service_of(limits={"max_held_bytes": 16 << 20})
    bound = connections_bytes(service.limits, connections=0)
    peak_bytes = 0

    async def send(stranger: Stranger) -> None:
        nonlocal peak_bytes
        for rid in range(2, 30):
            await stranger.send(ws(framed(Produce(rid, queue="orders", partition=0), body=bytes(1 << 20))))
            peak_bytes = max(peak_bytes, service.measures.held_bytes)

    async with serving(service) as (_, port), bystander(port) as one, AsyncExitStack() as many:
        strangers = [await many.enter_async_context(connected(port)) for _ in range(8)]
        for stranger in strangers:
            await stranger.greet()
        answered = one.answered
        with trio.move_on_after(HANG_S):
            async with trio.open_nursery() as nursery:
                for stranger in strangers:
                    nursery.start_soon(send, stranger)
        # Each alone might hold 16 MiB. Whoever holds nothing is served all the while.
        assert 16 << 20 < peak_bytes <= bound
        assert one.answered > answered + 10
        backend = fake_of(service)
        backend.replies[ProduceRequest] = ProduceReply(Offset(0), 1, 1_000)
        # What waited outside is taken as soon as something is answered.
        waiting = len(backend.asked)
        for _ in range(waiting):
            backend.take(ProduceRequest)[2](ProduceReply(Offset(0), 1, 1_000))
        for stranger in strangers:
            assert not isinstance(await stranger.reply(), Error)
        await until(lambda: service.measures.held_bytes < 1_000)


async def test_replies_for_those_who_do_not_read_end_the_greediest_when_all_together_hold_too_much() -> None:
    service = service_of(limits={"max_held_bytes": 16 << 20}, timeouts={"close_ms": 100})
    backend = fake_of(service)
    async with serving(service) as (listener, port), bystander(port), AsyncExitStack() as many:
        for _ in range(4):
            stranger = await many.enter_async_context(connected(port))
            await refuse_to_read(stranger)
            await stranger.greet()
            await stranger.send(ws(framed(*[receive(rid) for rid in range(2, 22)])))
        await until(lambda: len(backend.asked) == 80)
        peak_bytes = 0
        for number in range(80):
            part = Part(bytes(1 << 20), Offset(number), 1_000, ((number, number + 1, 1),))
            backend.take(ReceiveRequest)[2](ReceiveReply(LeaseId(70 + number), 1, 1, (part,)))
            peak_bytes = max(peak_bytes, service.measures.held_bytes)
        assert peak_bytes <= (16 << 20) + (2 << 20)
        await until(lambda: listener.connection_count == 1)
        assert service.measures.held_bytes < 1_000
        assert set(service.measures.closed) == {1013}


# --- long polls ---


async def test_a_flood_of_long_polls_is_refused_by_name_and_leaves_no_trace() -> None:
    service = service_of(limits={"max_waiting_receives": 1_000})
    async with serving(service) as (listener, port), bystander(port), AsyncExitStack() as many:
        strangers = []
        for number in range(4):
            stranger = await many.enter_async_context(connected(port))
            await stranger.greet()
            rids = range(2, 2 + 500)
            await stranger.send(ws(framed(*[receive(1_000 * number + rid) for rid in rids])))
            strangers.append(stranger)
        await until(lambda: len(fake_of(service).asked) == 1_000)
        refused = [await strangers[3].reply() for _ in range(500)]
        assert {expect(Error, reply).code for reply in refused} == {"overloaded"}
        assert service.measures.waiting_receives == 1_000
        await many.aclose()
        await until(lambda: listener.connection_count == 1)
        assert service.measures.waiting_receives == 0


async def test_a_wait_of_ever_is_taken_as_the_longest() -> None:
    service = service_of()
    async with serving(service) as (_, port), connected(port) as stranger:
        await stranger.greet()
        await stranger.send(ws(framed(receive(2, wait_ms=(1 << 63) - 1))))
        await until(lambda: len(fake_of(service).asked) == 1)
        assert fake_of(service).take(ReceiveRequest)[1].wait_ms == 30_000
