"""Links between nodes over loopback: who is let in, what is dropped, and what a closed connection sets off."""

from __future__ import annotations

import ssl
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from logbroker.errors import RemoteProtocolError
from logbroker.ids import NodeId
from logbroker.node.peer_frames import (
    PROTOCOL_VERSION,
    FrameKind,
    Hello,
    InitialNodeRow,
    Welcome,
    decode_welcome,
    encode_opening,
    frame,
)
from logbroker.node.peers import PeerOptions, Peers, PeerTls, _Link, turn_after
from tests.node_kit.nodes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OPTIONS = PeerOptions(
    max_frame_bytes=1 << 20, max_buffer_bytes=1 << 20, least_backoff_ms=5, most_backoff_ms=20, down_jitter_ms=0
)
ONE, TWO = NodeId(1), NodeId(2)


class Side:
    """A node as its links see it; keeps what they tell."""

    def __init__(self, node: NodeId, *, options: PeerOptions = OPTIONS, tls: PeerTls | None = None) -> None:
        self.node = node
        self.incarnation = bytes((node,)) * 16
        self.cluster_id = b""
        self.up: list[NodeId] = []
        self.lost: list[NodeId] = []
        self.silent: list[NodeId] = []
        self.frames: list[tuple[NodeId, int, bytes]] = []
        self.reads = 0
        self.refuses_frames = False
        self.peers = Peers(options, self, random_ms=lambda _: 0, tls=tls)
        self.address = ""

    def hello(self, to_node: NodeId) -> Hello:
        initial = (InitialNodeRow(ONE, "a:1"), InitialNodeRow(TWO, "b:1"))
        return Hello(
            PROTOCOL_VERSION, self.cluster_id, "test", self.node, self.incarnation, to_node, self.address, initial
        )

    def on_link_up(self, node: NodeId, incarnation: bytes) -> None:
        self.up.append(node)

    def on_link_lost(self, node: NodeId) -> None:
        self.lost.append(node)

    def on_peer_silent(self, node: NodeId) -> None:
        self.silent.append(node)

    def on_frame(self, node: NodeId, incarnation: bytes, kind: int, payload: memoryview) -> None:
        if self.refuses_frames:
            raise RemoteProtocolError("not understood")
        self.frames.append((node, kind, bytes(payload)))

    def after_read(self) -> None:
        self.reads += 1

    async def listen(self, nursery: trio.Nursery) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await nursery.start(self.peers.run, listeners)

    async def dial(self) -> trio.SocketStream:
        host, port = self.address.split(":")
        return await trio.open_tcp_stream(host, int(port))


@asynccontextmanager
async def two_sides(one: Side, two: Side) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await one.listen(nursery)
        await two.listen(nursery)
        one.peers.set_address(TWO, two.address)
        two.peers.set_address(ONE, one.address)
        yield nursery
        nursery.cancel_scope.cancel()


async def connected(one: Side, two: Side) -> None:
    await until(lambda: one.peers.is_connected(TWO) and two.peers.is_connected(ONE), "both directions up")


async def test_frames_arrive_in_order_and_many_share_a_read() -> None:
    one, two = Side(ONE), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        for number in range(500):
            one.peers.send(TWO, FrameKind.RAFT, b"%d" % number)
        await until(lambda: len(two.frames) == 500, "all frames arrive")
        assert two.frames == [(ONE, FrameKind.RAFT, b"%d" % number) for number in range(500)]
        sent, received = one.peers.statistics()[TWO], two.peers.statistics()[ONE]
        assert sent.sends < 10
        assert two.reads < 20
        assert (sent.sent_frames, sent.dropped_frames, received.received_frames) == (500, 0, 500)


async def test_what_is_sent_together_is_sent_before_anything_else_runs() -> None:
    one, two = Side(ONE), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        await trio.testing.wait_all_tasks_blocked(0.01)
        one.peers.send_many(TWO, FrameKind.RAFT, [b"a", b"b"])
        sent = one.peers.statistics()[TWO]
        assert (sent.sends, sent.buffered_bytes) == (1, 0)
        one.peers.send(TWO, FrameKind.RAFT, b"c")
        assert one.peers.statistics()[TWO].sends == 1
        await until(lambda: len(two.frames) == 3, "all arrive")
        assert [payload for _, _, payload in two.frames] == [b"a", b"b", b"c"]


async def test_what_does_not_fit_the_socket_at_once_follows_in_order() -> None:
    one, two = Side(ONE, options=replace(OPTIONS, max_buffer_bytes=64 << 20)), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        await trio.testing.wait_all_tasks_blocked(0.01)
        payloads = [bytes((number,)) * 200_000 for number in range(200)]
        for payload in payloads:
            one.peers.send_many(TWO, FrameKind.RAFT, [payload])
        assert one.peers.statistics()[TWO].buffered_bytes > 0
        await until(lambda: len(two.frames) == len(payloads), "all arrive")
        assert [payload for _, _, payload in two.frames] == payloads


@pytest.mark.parametrize("taken", [0, 1, 4, 5, 6, 8, 9, 13, 14, 15])
def test_whatever_the_socket_takes_of_some_frames_the_rest_goes_next(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = _Link(TWO, "")
    link.is_sending, link.handle, link.ready = True, 7, trio.Event()
    for payload in (b"abc", b"", b"last"):
        link.put(FrameKind.RAFT, payload, 1_000)
    data = b"".join(frame(FrameKind.RAFT, payload) for payload in (b"abc", b"", b"last"))
    monkeypatch.setattr("os.writev", lambda _, pieces: len(b"".join(pieces)[:taken]))
    link.flush()
    assert link.buffered_bytes == len(data) - taken
    assert link.take() == data[taken:]
    assert link.buffered_bytes == 0


async def test_a_large_frame_arrives_whole() -> None:
    one, two = Side(ONE), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        data = bytes(range(256)) * 4_000
        one.peers.send(TWO, FrameKind.RAFT, b"before")
        one.peers.send(TWO, FrameKind.RAFT, data[: OPTIONS.max_frame_bytes - 1])
        one.peers.send(TWO, FrameKind.CLUSTER, b"after")
        await until(lambda: len(two.frames) == 3, "three frames arrive")
        assert [payload for _, _, payload in two.frames] == [b"before", data, b"after"]


async def test_what_does_not_fit_the_buffer_is_dropped_and_counted() -> None:
    one, two = Side(ONE), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        for _ in range(3):
            # Without a checkpoint in between the writer has no chance to empty the buffer.
            one.peers.send(TWO, FrameKind.RAFT, bytes(400_000))
        assert one.peers.statistics()[TWO].dropped_frames == 1
        await until(lambda: len(two.frames) == 2, "what fitted arrives")


async def test_nothing_waits_for_a_link_that_is_down() -> None:
    one = Side(ONE)
    one.peers.set_address(TWO, "127.0.0.1:9")
    one.peers.send(TWO, FrameKind.RAFT, b"lost")
    assert one.peers.statistics()[TWO].dropped_frames == 1
    assert one.peers.statistics()[TWO].buffered_bytes == 0


async def test_a_node_that_goes_is_noticed_at_once_and_called_silent_after_the_jitter() -> None:
    one, two = Side(ONE), Side(TWO)
    async with trio.open_nursery() as outer:
        await one.listen(outer)
        async with trio.open_nursery() as nursery:
            await two.listen(nursery)
            one.peers.set_address(TWO, two.address)
            two.peers.set_address(ONE, one.address)
            await connected(one, two)
            nursery.cancel_scope.cancel()
        await until(lambda: one.silent == [TWO], "the silence is told")
        assert set(one.lost) == {TWO}
        assert not one.peers.is_connected(TWO)
        assert one.peers.fault(TWO) != ""
        outer.cancel_scope.cancel()


@pytest.mark.parametrize("gone", [1, 2, 3, 5, 65_535])
def test_those_who_stay_take_turns_and_agree_on_them(gone: int) -> None:
    stay = [NodeId(node) for node in (1, 2, 3, 5, 65_535) if node != gone]
    turns = {node: turn_after(NodeId(gone), node, [other for other in stay if other != node]) for node in stay}
    assert sorted(turns.values()) == [0, 1, 2, 3]


def test_the_next_in_the_circle_begins_and_whoever_hears_nobody_does_not_wait() -> None:
    assert [turn_after(NodeId(2), NodeId(3), [ONE, TWO]), turn_after(NodeId(2), ONE, [NodeId(3), TWO])] == [0, 1]
    assert turn_after(NodeId(2), ONE, []) == 0


async def test_a_node_whose_turn_comes_later_calls_another_silent_later() -> None:
    one, two = Side(ONE), Side(TWO, options=replace(OPTIONS, down_least_ms=200))
    three = Side(NodeId(3), options=replace(OPTIONS, down_turn_ms=60_000))
    async with trio.open_nursery() as outer:
        await two.listen(outer)
        await three.listen(outer)
        async with trio.open_nursery() as nursery:
            await one.listen(nursery)
            sides = (one, two, three)
            for side in sides:
                for other in sides:
                    if other is not side:
                        side.peers.set_address(other.node, other.address)
            await until(
                lambda: all(
                    side.peers.is_connected(other.node) for side in sides for other in sides if other is not side
                ),
                "all are connected",
            )
            nursery.cancel_scope.cancel()
        await until(lambda: ONE in two.silent, "the silence is told")
        assert three.silent == []
        outer.cancel_scope.cancel()


async def test_a_link_comes_back_by_itself_and_is_not_called_silent_then() -> None:
    one, two = Side(ONE), Side(TWO, options=replace(OPTIONS, down_least_ms=2_000))
    async with two_sides(one, two):
        await connected(one, two)
        # As after a proxy or a switch dropped the connection: only the link from one to two.
        one.peers.set_address(TWO, two.address.replace("127.0.0.1", "localhost"))
        await until(lambda: one.up.count(TWO) == 2 and two.peers.hears(ONE), "dialled anew")
        assert two.silent == []


async def test_a_node_that_moved_is_found_by_what_it_says_of_itself() -> None:
    one, two = Side(ONE), Side(TWO)
    async with trio.open_nursery() as nursery:
        await one.listen(nursery)
        await two.listen(nursery)
        # One still has the address that two had before; only two can dial.
        one.peers.set_address(TWO, "127.0.0.1:9")
        two.peers.set_address(ONE, one.address)
        await connected(one, two)
        assert one.peers.statistics()[TWO].address == two.address
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("address", ["", "nowhere", "a:b", "a:99999", ":1", "a:\u00b2"])
async def test_an_address_that_is_none_is_a_fault_of_the_link_alone(address: str) -> None:
    one = Side(ONE)
    async with trio.open_nursery() as nursery:
        await one.listen(nursery)
        one.peers.set_address(TWO, address)
        await until(lambda: one.peers.fault(TWO) == f"peer address {address!r} is not host:port", "named")
        nursery.cancel_scope.cancel()


async def test_a_refused_link_says_why_on_both_sides() -> None:
    one, two = Side(ONE), Side(TWO)
    one.cluster_id, two.cluster_id = b"c" * 16, b"d" * 16
    async with two_sides(one, two):
        await until(lambda: "clusters differ" in one.peers.fault(TWO), "the reason is known")
        assert one.peers.fault(TWO).startswith("refused by node 2: clusters differ: node 1 belongs to 6363")
        assert one.up == two.up == []


async def test_a_frame_beyond_the_bound_closes_the_link() -> None:
    one, two = Side(ONE), Side(TWO, options=replace(OPTIONS, max_frame_bytes=1_000))
    async with two_sides(one, two):
        await connected(one, two)
        one.peers.send(TWO, FrameKind.RAFT, bytes(2_000))
        await until(lambda: two.lost.count(ONE) > 0, "the link is closed")
        assert two.frames == []


async def test_a_frame_that_is_not_understood_closes_the_link_and_nothing_else() -> None:
    one, two = Side(ONE), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        two.refuses_frames = True
        one.peers.send(TWO, FrameKind.RAFT, b"x")
        await until(lambda: one.up.count(TWO) == 2, "dialled anew")
        two.refuses_frames = False
        await connected(one, two)
        one.peers.send(TWO, FrameKind.RAFT, b"y")
        await until(lambda: len(two.frames) == 1, "the new link works")


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, frame(FrameKind.RAFT, b"no hello"), b""])
async def test_strangers_are_turned_away(noise: bytes) -> None:
    two = Side(TWO)
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        stream = await two.dial()
        async with stream:
            await stream.send_all(noise)
            await stream.send_eof()
            with trio.fail_after(5):
                assert await stream.receive_some(1) == b""
        assert two.up == []
        assert two.frames == []
        nursery.cancel_scope.cancel()


async def test_a_stranger_that_says_nothing_is_turned_away_at_the_deadline() -> None:
    two = Side(TWO, options=replace(OPTIONS, handshake_ms=20))
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        async with await two.dial() as stream:
            with trio.fail_after(5):
                assert await stream.receive_some(1) == b""
        nursery.cancel_scope.cancel()


async def test_strangers_take_no_more_than_their_places() -> None:
    two = Side(TWO, options=replace(OPTIONS, max_handshakes=1))
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        first = await two.dial()
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with first, await two.dial() as second:
            with trio.fail_after(5):
                assert await second.receive_some(1) == b""
        nursery.cancel_scope.cancel()


async def test_nodes_beyond_the_most_are_refused_and_those_that_are_there_come_back() -> None:
    two = Side(TWO, options=replace(OPTIONS, max_links=1))
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        async with await two.dial() as first, await two.dial() as second, await two.dial() as again:
            answers = []
            for stream, node in ((first, 1), (second, 3), (again, 1)):
                await stream.send_all(encode_opening(Side(NodeId(node)).hello(TWO)))
                with trio.fail_after(5):
                    answers.append(decode_welcome(bytes(await stream.receive_some(1_000))[4:]).refusal)
        assert answers == ["", "1 nodes are connected, which is the most", ""]
        nursery.cancel_scope.cancel()


async def test_a_link_without_a_word_for_too_long_is_closed() -> None:
    two = Side(TWO, options=replace(OPTIONS, idle_ms=20))
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        async with await two.dial() as stream:
            await stream.send_all(encode_opening(Side(ONE).hello(TWO)))
            welcome = decode_welcome(bytes(await stream.receive_some(1_000))[4:])
            assert (welcome.refusal, welcome.node) == ("", TWO)
            with trio.fail_after(5):
                assert await stream.receive_some(1) == b""
            await until(lambda: two.silent == [ONE], "the silence is told")
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's own")
async def test_a_link_whose_bytes_are_not_acknowledged_is_given_up() -> None:
    # Nothing else would end it.
    options = replace(OPTIONS, unacknowledged_ms=100, send_ms=600_000, max_buffer_bytes=64 << 20)
    one, two = Side(ONE, options=options), Side(TWO)
    async with trio.open_nursery() as nursery:
        await one.listen(nursery)
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        one.peers.set_address(TWO, f"127.0.0.1:{listener.socket.getsockname()[1]}")
        async with listener, await listener.accept() as stream:
            await stream.receive_some(1 << 10)
            await stream.send_all(encode_opening(Welcome(PROTOCOL_VERSION, "", b"", TWO, two.incarnation)))
            await until(lambda: one.up == [TWO], "the link is up")
            for _ in range(40):
                # More than the other side's kernel takes from it, which reads no more.
                one.peers.send(TWO, FrameKind.RAFT, bytes(1 << 20))
            await until(lambda: one.lost == [TWO], "it is given up")
        nursery.cancel_scope.cancel()


async def test_a_second_life_is_refused_while_the_first_one_is_connected() -> None:
    one, two = Side(ONE), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        other = Side(ONE)
        other.incarnation = b"o" * 16
        async with await two.dial() as stream:
            await stream.send_all(encode_opening(other.hello(TWO)))
            with trio.fail_after(5):
                welcome = decode_welcome(bytes(await stream.receive_some(1_000))[4:])
            assert "connected already, with another data directory" in welcome.refusal
        assert two.peers.is_connected(ONE)


async def test_the_newer_of_two_links_of_one_life_is_kept() -> None:
    one, two = Side(ONE), Side(TWO)
    async with two_sides(one, two):
        await connected(one, two)
        async with await two.dial() as stream:
            await stream.send_all(encode_opening(one.hello(TWO)))
            await stream.receive_some(1_000)
            await stream.send_all(frame(FrameKind.RAFT, b"on the new one"))
            await until(lambda: (ONE, FrameKind.RAFT, b"on the new one") in two.frames, "the new link is read")
        assert two.silent == []


# With certificates.

CA = trustme.CA()


def tls_of(name: str, *, ca: trustme.CA = CA, trusts: trustme.CA = CA) -> PeerTls:
    certificate = ca.issue_cert(name)
    contexts = []
    for purpose in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(purpose)
        context.verify_mode = ssl.CERT_REQUIRED
        certificate.configure_cert(context)
        trusts.configure_trust(context)
        contexts.append(context)
    return PeerTls(contexts[0], contexts[1], lambda node: f"node-{node}.test")


async def test_nodes_with_certificates_of_their_own_names_talk() -> None:
    one, two = Side(ONE, tls=tls_of("node-1.test")), Side(TWO, tls=tls_of("node-2.test"))
    async with two_sides(one, two):
        await connected(one, two)
        one.peers.send(TWO, FrameKind.RAFT, bytes(500_000))
        await until(lambda: len(two.frames) == 1, "it arrives")


async def test_another_nodes_certificate_is_refused_by_who_accepts() -> None:
    # Node 1 shows the certificate of node 3: as a server nobody would take it, so only it dials.
    one, two = Side(ONE, tls=tls_of("node-3.test")), Side(TWO, tls=tls_of("node-2.test"))
    async with trio.open_nursery() as nursery:
        await one.listen(nursery)
        await two.listen(nursery)
        one.peers.set_address(TWO, two.address)
        await until(lambda: "its certificate is for" in one.peers.fault(TWO), "refused by its name")
        assert one.peers.fault(TWO).endswith("its certificate is for ['node-3.test'], not for node-1.test")
        nursery.cancel_scope.cancel()


async def test_another_nodes_certificate_is_refused_by_who_dials() -> None:
    one, two = Side(ONE, tls=tls_of("node-1.test")), Side(TWO, tls=tls_of("node-3.test"))
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        await one.listen(nursery)
        one.peers.set_address(TWO, two.address)
        await until(lambda: one.peers.fault(TWO) not in ("", "not tried yet"), "refused")
        assert one.up == []
        nursery.cancel_scope.cancel()


async def test_a_certificate_of_another_authority_opens_nothing() -> None:
    stranger = tls_of("node-1.test", ca=trustme.CA())
    one, two = Side(ONE, tls=stranger), Side(TWO, tls=tls_of("node-2.test"))
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        await one.listen(nursery)
        one.peers.set_address(TWO, two.address)
        await until(lambda: one.peers.fault(TWO) not in ("", "not tried yet"), "refused")
        assert one.up == []
        assert two.frames == []
        nursery.cancel_scope.cancel()


async def test_plain_text_opens_nothing_where_certificates_are_asked_for() -> None:
    one, two = Side(ONE), Side(TWO, tls=tls_of("node-2.test"))
    async with trio.open_nursery() as nursery:
        await two.listen(nursery)
        await one.listen(nursery)
        one.peers.set_address(TWO, two.address)
        await until(lambda: one.peers.fault(TWO) not in ("", "not tried yet"), "refused")
        assert one.up == []
        assert two.frames == []
        nursery.cancel_scope.cancel()
