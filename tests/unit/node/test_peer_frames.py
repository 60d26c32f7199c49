"""Frames of a peer link, and the hello that opens it."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbroker.errors import RemoteProtocolError
from logbroker.ids import NodeId
from logbroker.node.peer_frames import (
    PROTOCOL_VERSION,
    FrameKind,
    FrameSplitter,
    Hello,
    InitialNodeRow,
    Welcome,
    decode_hello,
    decode_welcome,
    encode_opening,
    frame,
    objection,
)

HERE, THERE = b"h" * 16, b"t" * 16
CLUSTER = b"c" * 16
INITIAL = tuple(InitialNodeRow(NodeId(number), f"n{number}:4202") for number in (1, 2, 3))


def hello(node: int = 2, *, to_node: int = 1, **changes: object) -> Hello:
    base = Hello(PROTOCOL_VERSION, b"", "test", NodeId(node), THERE, NodeId(to_node), f"n{node}:4202", INITIAL)
    return msgspec.structs.replace(base, **changes)


MINE = hello(1, to_node=2, incarnation=HERE)


@given(st.lists(st.binary(max_size=50), max_size=20), st.lists(st.integers(1, 40), max_size=60))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(FrameKind.RAFT, payload) for payload in payloads)
    splitter = FrameSplitter(51)
    found: list[bytes] = []
    at = 0
    for cut in [*cuts, len(stream)]:
        found += [bytes(one) for one in splitter.feed(stream[at : at + cut])]
        at += cut
    assert found == [bytes((FrameKind.RAFT,)) + payload for payload in payloads]


def test_a_length_beyond_the_bound_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(RemoteProtocolError, match="a frame of 4294967295 bytes; the most is 100"):
        FrameSplitter(100).feed(b"\xff\xff\xff\xff")


def test_a_frame_without_even_a_kind_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="a frame of 0 bytes"):
        FrameSplitter(100).feed(bytes(4))


def test_what_follows_the_hello_is_kept_for_whoever_reads_on() -> None:
    splitter = FrameSplitter(100)
    stream = frame(FrameKind.HELLO, b"a") + frame(FrameKind.RAFT, b"b") + frame(FrameKind.RAFT, b"c")[:3]
    assert [bytes(one) for one in splitter.feed(stream, at_most=1)] == [b"\x01a"]
    splitter.limit(1_000)
    assert [bytes(one) for one in splitter.feed(b"")] == [b"\x03b"]
    assert [bytes(one) for one in splitter.feed(frame(FrameKind.RAFT, b"c")[3:])] == [b"\x03c"]


def test_hello_and_welcome_come_back_from_their_bytes() -> None:
    welcome = Welcome(PROTOCOL_VERSION, "", CLUSTER, NodeId(1), HERE)
    assert decode_hello(encode_opening(hello())[4:]) == hello()
    assert decode_welcome(encode_opening(welcome)[4:]) == welcome


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x90", b"\x01\xc1", b"GET / HTTP/1.1", b"\x01" + b"\x91" * 5_000])
def test_anything_else_is_no_hello(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_hello(data)
    with pytest.raises(RemoteProtocolError):
        decode_welcome(data)


def test_nodes_of_one_first_boot_have_nothing_against_each_other() -> None:
    assert objection(MINE, hello()) == ""


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (hello(version=9), "speaks version 9 of the peer protocol, this node 2"),
        (hello(to_node=3), "this is node 1, not node 3"),
        (hello(1), "dialled by a node of the same number"),
        (hello(cluster_name="prod"), "cluster names differ: 'prod' on node 2, 'test' here"),
        (
            hello(initial_nodes=INITIAL[:2]),
            "cluster.initial_nodes differ: node 3 is at no address for node 2, at n3:4202 here",
        ),
        (
            hello(initial_nodes=(*INITIAL[:2], InitialNodeRow(NodeId(3), "x:1"))),
            "cluster.initial_nodes differ: node 3 is at x:1 for node 2, at n3:4202 here",
        ),
    ],
)
def test_a_difference_is_named(theirs: Hello, why: str) -> None:
    assert why in objection(MINE, theirs)


def test_members_of_two_clusters_refuse_each_other() -> None:
    mine = hello(1, to_node=2, cluster_id=b"d" * 16)
    assert objection(mine, hello(cluster_id=CLUSTER)).startswith("clusters differ: node 2 belongs to 63636363")


def test_members_of_one_cluster_may_have_been_configured_differently_since() -> None:
    mine = hello(1, to_node=2, cluster_id=CLUSTER)
    assert objection(mine, hello(cluster_id=CLUSTER, initial_nodes=())) == ""


def test_a_node_without_a_cluster_may_speak_to_a_member() -> None:
    mine = hello(1, to_node=2, cluster_id=CLUSTER)
    assert objection(mine, hello(initial_nodes=())) == ""


def test_a_second_life_of_a_node_is_refused_while_the_first_is_connected() -> None:
    assert objection(MINE, hello(), incarnation=THERE) == ""
    assert "connected already, with another data directory" in objection(MINE, hello(), incarnation=b"o" * 16)


def test_a_frame_in_tiny_pieces_takes_little_more_than_it_holds() -> None:
    splitter = FrameSplitter(1 << 20)
    data = frame(FrameKind.RAFT, bytes(range(256)) * 2_000)
    frames: list[memoryview] = []
    tracemalloc.start()
    try:
        for at in range(0, len(data), 2):
            frames += splitter.feed(data[at : at + 2])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [bytes(one) for one in frames] == [data[4:]]
    assert peak_bytes < 3 * len(data)
