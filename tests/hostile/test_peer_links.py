"""Strangers and traitors on the peer listener of a running node: its bytes, its frames, its hello.

A node of three is killed, and somebody who knows everything that it knew takes its place. The rest of the cluster goes
on serving through all of it.
"""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from logbroker.ids import META_GROUP, GroupId, GroupName, Index, NodeId, ReplicaId, Term
from logbroker.node.cluster_messages import (
    Ask,
    ClusterMessage,
    Phase,
    Recorded,
    Refusal,
    Report,
    Standing,
    encode_cluster_message,
)
from logbroker.node.forwarding import Asked, RewindForm, StateForm, TargetForm
from logbroker.node.peer_frames import MAX_HELLO_BYTES, FrameKind, Hello, decode_welcome, encode_opening, frame
from logbroker.node.peer_messages import (
    CLUSTER_TAG_BYTES,
    Beat,
    EntryFetch,
    EntryGone,
    RaftMessage,
    SnapshotAck,
    SnapshotChunk,
    encode_peer_message,
)
from logbroker.node.requests import ProduceReply, ProduceRequest, StateReply, StateRequest
from logbroker.raft.messages import Message, MessageKind
from logbroker.record.batch import Record, encode_batch
from tests.hostile.kit import HANG_S, soon
from tests.node_kit.nodes import Nodes, running_nodes, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from logbroker.node.broker import Broker
    from logbroker.node.peer_messages import PeerMessage

STRANGE = b"s" * 16


@dataclass
class Scene:
    """Two nodes of three that serve a queue; `gone` is the third, whose part anybody may play."""

    nodes: Nodes
    group: GroupId
    leader: Broker
    target: Broker
    """Whom the bytes go to; at first the leader."""
    gone: NodeId
    produced: int = 0
    longest_s: float = 0.0

    def hello(self, **changes: Any) -> Hello:  # noqa: ANN401  fields of a hello
        """What the node that is gone would say, but for its address, at which nobody is to be found."""
        mine = self.target.hello(self.gone)
        values = {"node": self.gone, "incarnation": STRANGE, "to_node": self.target.node, "peer_address": ""}
        return msgspec.structs.replace(mine, **{**values, **changes})

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.target.settings.peer_address.rpartition(":")
        return host, int(port)

    @property
    def tag(self) -> bytes:
        return self.hello().cluster_id[:CLUSTER_TAG_BYTES]

    def replica(self, group: GroupId) -> ReplicaId:
        return next(one.replica for one in self.target.status().groups if one.group == group)

    def other_replicas(self, group: GroupId) -> list[ReplicaId]:
        row = self.target.catalogue.group(group)
        assert row is not None
        return [held.replica for held in row.replicas if held.node == self.gone]

    async def produce_for_ever(self) -> None:
        while True:
            began_s = time.process_time()
            batch = encode_batch([Record(b"m%d" % self.produced)])
            reply = await self.leader.ask(self.group, ProduceRequest(batch))
            assert isinstance(reply, ProduceReply)
            self.produced += 1
            self.longest_s = max(self.longest_s, time.process_time() - began_s)
            await trio.sleep(0.02)


@asynccontextmanager
async def scene(root: Path, *, serves: bool = True) -> AsyncIterator[Scene]:
    """`serves`: the queue goes on as if nothing were, which is checked."""
    async with running_nodes(root, 3) as nodes:
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        target = await nodes.led(group)
        gone = next(number for number in (1, 2, 3) if number != target.node and number != nodes.leader(META_GROUP))
        await nodes.kill(gone)
        it = Scene(nodes, group, target, target, NodeId(gone))
        await until(lambda: not target._peers.hears(it.gone), "the node is gone")
        if not serves:
            yield it
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.produce_for_ever)
            yield it
            produced = it.produced
            await until(lambda: it.produced > produced + 3, "it goes on")
            nursery.cancel_scope.cancel()
        assert it.longest_s < HANG_S, f"somebody else waited {it.longest_s:.2f} s"
        state = await target.ask(group, StateRequest())
        assert isinstance(state, StateReply)
        assert state.log_end in (it.produced, it.produced + 1)
        assert not any(one.problems for one in target.status().groups if one.group == group)


@asynccontextmanager
async def link(it: Scene) -> AsyncIterator[trio.SocketStream]:
    stream = await trio.open_tcp_stream(*it.address)
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def read_end(stream: trio.SocketStream) -> bytes:
    """Everything up to the end, which must come."""
    found = b""
    with soon():
        try:
            while data := await stream.receive_some():
                found += bytes(data)
        except trio.BrokenResourceError:
            pass
    return found


async def send(stream: trio.SocketStream, data: bytes) -> None:
    try:
        with trio.fail_after(5):
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass


async def enter(it: Scene, stream: trio.SocketStream) -> None:
    """Say the hello, and be let in."""
    await stream.send_all(encode_opening(it.hello()))
    with trio.fail_after(5):
        assert decode_welcome(bytes(await stream.receive_some(4_096))[4:]).refusal == ""


def openings(it: Scene) -> dict[str, bytes]:
    """First bytes that end the connection without an answer."""
    hello = encode_opening(it.hello())
    fields = msgspec.msgpack.decode(hello[5:])
    packed = msgspec.msgpack.encode

    def changed(position: int, value: object) -> bytes:
        return frame(FrameKind.HELLO, packed([*fields[:position], value, *fields[position + 1 :]]))

    return {
        "HTTP": b"GET / HTTP/1.1\r\n\r\n",
        "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
        "a length of 0": bytes(4),
        "a length of 64 KiB and one": (MAX_HELLO_BYTES + 1).to_bytes(4, "big"),
        "a length of 2**32 - 1": b"\xff" * 64,
        "another frame first": frame(FrameKind.RAFT, encode_peer_message(Beat(1, True), it.tag)),
        "an answer instead of a hello": frame(FrameKind.WELCOME, hello[5:]),
        "a kind of nobody": frame(FrameKind.HELLO, hello[5:]).replace(b"\x01", b"\x09", 1)[:4] + b"\x09" + hello[5:],
        "an empty hello": frame(FrameKind.HELLO, b""),
        "no msgpack": frame(FrameKind.HELLO, b"\xc1"),
        "a hello and more": frame(FrameKind.HELLO, hello[5:] + b"x"),
        "half a hello": frame(FrameKind.HELLO, hello[5:-5]),
        "a field too many": frame(FrameKind.HELLO, packed([*fields, 1])),
        "a field too few": frame(FrameKind.HELLO, packed(fields[:-1])),
        "another magic": changed(0, "logbroker-pear"),
        "node 0": changed(4, 0),
        "node 65,536": changed(4, 65_536),
        "an incarnation of 15 bytes": changed(5, b"i" * 15),
        "a cluster id of 17 bytes": changed(2, b"c" * 17),
        "a name without end": changed(3, "n" * 30_000),
        "members without end": changed(8, [[1, "a"]] * 1_000),
        "nesting without end": frame(FrameKind.HELLO, b"\x91" * 60_000),
    }


async def test_who_does_not_begin_with_a_hello_is_gone_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        for name, data in openings(it).items():
            async with link(it) as stream:
                await send(stream, data)
                assert await read_end(stream) == b"", name
        assert it.target._peers._handshakes == 0


async def test_a_hello_that_does_not_fit_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        refused: list[tuple[dict[str, object], str]] = [
            ({"version": 0}, "speaks version 0 of the peer protocol"),
            ({"version": 1}, "speaks version 1 of the peer protocol"),
            ({"cluster_id": b"x" * 16}, "clusters differ"),
            ({"cluster_name": "another"}, "cluster names differ"),
            ({"to_node": NodeId(9)}, "not node 9: an address in the configuration is wrong"),
            ({"node": it.target.node}, "each node needs a number of its own"),
        ]
        # The third node is there, and nobody takes its place.
        present = next(number for number in it.nodes.brokers if number != it.target.node)
        refused.append(({"node": NodeId(present)}, "is connected already, with another data directory"))
        for changes, reason in refused:
            async with link(it) as stream:
                await send(stream, encode_opening(it.hello(**changes)) + frame(FrameKind.RAFT, b"too early") * 10)
                answer = decode_welcome((await read_end(stream))[4:])
                assert reason in answer.refusal
                assert answer.node == it.target.node
        assert it.target._peers.is_connected(NodeId(present))


async def test_half_hellos_are_bounded_in_number(tmp_path: Path) -> None:
    async with scene(tmp_path) as it, trio.open_nursery() as nursery:
        hello = encode_opening(it.hello())
        streams = [await trio.open_tcp_stream(*it.address) for _ in range(150)]
        for stream in streams:
            await send(stream, hello[:-1])
        await until(lambda: it.target._peers._handshakes == 64, "all places are taken")
        ends: list[trio.SocketStream] = []

        async def wait_end(stream: trio.SocketStream) -> None:
            await read_end(stream)
            ends.append(stream)

        for stream in streams:
            nursery.start_soon(wait_end, stream)
        await until(lambda: len(ends) == 86, "the others are sent away at once")
        nursery.cancel_scope.cancel()
        for stream in streams:
            stream.socket.close()


def frames(it: Scene) -> dict[str, bytes]:
    """What ends a link that was let in."""
    beat = encode_peer_message(Beat(1, True), it.tag)
    raft = encode_peer_message(
        RaftMessage(it.group, Message(MessageKind.HEARTBEAT, ReplicaId(1), ReplicaId(2), Term(1))), it.tag
    )
    largest = it.target._peers._options.max_frame_bytes
    return {
        "a length of 0": bytes(4),
        "a length above the bound": (largest + 1).to_bytes(4, "big"),
        "a length of 2**32 - 1": b"\xff" * 4,
        "a frame of kind 0": frame(FrameKind.RAFT, b"")[:4] + b"\x00",
        "a frame of kind 255": b"\x00\x00\x00\x01\xff",
        "a second hello": encode_opening(it.hello()),
        "a welcome": frame(FrameKind.WELCOME, b"x"),
        "an empty Raft frame": frame(FrameKind.RAFT, b""),
        "half a tag": frame(FrameKind.RAFT, it.tag[:4]),
        "another cluster": frame(FrameKind.RAFT, encode_peer_message(Beat(1, True), b"another!")),
        "a message of nobody": frame(FrameKind.RAFT, it.tag + b"\xfe" + bytes(100)),
        "a beat and more": frame(FrameKind.RAFT, beat + b"x"),
        "half a beat": frame(FrameKind.RAFT, beat[:-1]),
        "a Raft message of another kind": frame(FrameKind.RAFT, raft[:13] + b"\xfe" + raft[14:]),
        "a Raft message and more": frame(FrameKind.RAFT, raft + b"x"),
        "half a Raft message": frame(FrameKind.RAFT, raft[:-1]),
        "entries that are not there": frame(FrameKind.RAFT, raft[:-4] + b"\xff\xff\xff\xff"),
        "a snapshot that is not there": frame(FrameKind.RAFT, raft[:-5] + b"\x04" + raft[-4:]),
        "an empty cluster message": frame(FrameKind.CLUSTER, b""),
        "a cluster message of nobody": frame(FrameKind.CLUSTER, b"\x91\x63"),
        "a cluster message of nesting": frame(FrameKind.CLUSTER, b"\x91" * 100_000),
        "a record of 2**32 - 1 fields": frame(FrameKind.CLUSTER, b"\xdd\xff\xff\xff\xff\x05"),
        "an empty request": frame(FrameKind.ASKED, b""),
        "a request of nobody": frame(FrameKind.ASKED, b"\x93\x01\x01\x91\x63"),
        "an answer that is none": frame(FrameKind.ANSWERED, b"\x92\x01\xc0"),
    }


async def test_a_frame_that_no_node_sends_ends_the_link_and_nothing_else(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        for name, data in frames(it).items():
            async with link(it) as stream:
                await enter(it, stream)
                await send(stream, data)
                assert await read_end(stream) == b"", name
        assert it.target._peers._handshakes == 0


def sayings(it: Scene, group: GroupId, replica: ReplicaId) -> list[bytes]:
    """Well-formed nonsense."""
    to, index, term, none = it.replica(group), Index(1 << 50), Term(1 << 50), Index(0)
    chunk = SnapshotChunk(group, replica, to, term, 1, index, term, none, Term(0), 1 << 50, 1, 0, False, b"x" * 1_000)
    messages: list[PeerMessage] = [
        Beat(1 << 62, False),
        Beat(0, True),
        chunk,
        replace(chunk, transfer=2, checkpoint_bytes=4, data=b"abcd", is_last=True),
        replace(chunk, transfer=3, checkpoint_bytes=0, data=bytes(500)),
        replace(chunk, transfer=4, position=77),
        SnapshotAck(group, replica, to, index, term, 0, True),
        SnapshotAck(group, replica, to, index, term, 1 << 50, False),
        EntryFetch(group, replica, to, index, term),
        EntryFetch(group, replica, to, Index(0), Term(0)),
        EntryGone(group, replica, to, Index(1), index),
    ]
    for kind in (MessageKind.APPEND_RESPONSE, MessageKind.HEARTBEAT_RESPONSE, MessageKind.PRE_VOTE_RESPONSE):
        for old in (0, 1):
            log = {"log_term": term, "index": Index(1), "commit": index, "reject_hint": index}
            messages.append(RaftMessage(group, Message(kind, to, replica, Term(old), reject=True, **log)))  # type: ignore[arg-type]
    return [frame(FrameKind.RAFT, encode_peer_message(message, it.tag)) for message in messages]


def words(it: Scene) -> list[bytes]:
    """Cluster messages and requests that make no sense here."""
    said: list[ClusterMessage] = [Standing(phase, cluster) for phase in Phase for cluster in (b"", b"x" * 16)]
    others: list[ClusterMessage] = [
        Ask(b"x" * 16, ()),
        Recorded(b"x" * 16),
        Refusal(b"", "no"),
        Report(b""),
        Report(b"\xc1"),
        Report(b"\x90"),
    ]
    found = [frame(FrameKind.CLUSTER, encode_cluster_message(message)) for message in (*said, *others)]
    for kind in range(1, 6):
        for value in (-(1 << 63), -1, 0, (1 << 63) - 1, (1 << 64) - 1):
            rewind = RewindForm(GroupName("default"), 1 << 40, TargetForm(kind, value), forward=False, clamp=False)
            for group in (it.group, META_GROUP, 1 << 40):
                found.append(frame(FrameKind.ASKED, msgspec.msgpack.encode(Asked(7, group, rewind))))
    found.append(frame(FrameKind.ASKED, msgspec.msgpack.encode(Asked(7, META_GROUP, StateForm()))))
    return found


async def test_well_formed_nonsense_of_a_member_ends_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        said = [
            b for group in (it.group, META_GROUP) for one in it.other_replicas(group) for b in sayings(it, group, one)
        ]
        for data in [*said, *words(it)]:
            # A link for each: some of it may end the link, which is allowed.
            async with link(it) as stream:
                await enter(it, stream)
                await send(stream, data)
        assert it.target.status().is_ready


async def test_changed_bytes_of_real_messages_end_no_node(tmp_path: Path) -> None:
    """A group may have another leader after it, or stop where somebody lies about who leads: members are believed."""
    rng = random.Random(11)
    async with scene(tmp_path, serves=False) as it:
        good = words(it)
        for group in (it.group, META_GROUP):
            good += [data for one in it.other_replicas(group) for data in sayings(it, group, one)]
        for _ in range(40):
            async with link(it) as stream:
                await enter(it, stream)
                for _ in range(20):
                    data = bytearray(rng.choice(good))
                    for _ in range(rng.randrange(1, 4)):
                        data[rng.randrange(5, len(data))] = rng.randrange(256)
                    await send(stream, bytes(data))
        async with link(it) as stream:
            await enter(it, stream)
        assert it.target.status().problems != ("the node does not run",)
        assert it.target.node in it.nodes.brokers


async def test_a_link_of_one_byte_at_a_time_is_as_good_as_any(tmp_path: Path) -> None:
    async with scene(tmp_path) as it, link(it) as stream:
        for byte in encode_opening(it.hello()):
            await stream.send_all(bytes((byte,)))
        with trio.fail_after(5):
            assert decode_welcome(bytes(await stream.receive_some(4_096))[4:]).refusal == ""
        for byte in frame(FrameKind.RAFT, encode_peer_message(Beat(1, True), it.tag)) * 3:
            await stream.send_all(bytes((byte,)))
        received = it.target._peers.statistics()
        await until(lambda: it.target._peers._received[it.gone].frames >= 3, f"three frames arrive {received}")
