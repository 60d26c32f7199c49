"""The catalogue's checkpoint."""

from __future__ import annotations

import struct
from hashlib import blake2b

import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import META_GROUP, GroupId, QueueName, ReplicaId
from logbroker.node.catalogue import Catalogue, checkpoint
from logbroker.node.catalogue.checkpoint import decode, encode_slices
from logbroker.node.catalogue.commands import CreateToken, DeleteQueue
from logbroker.node.catalogue.rights import EVERYTHING
from logbroker.node.catalogue.state import CatalogueState
from logbroker.partition.checkpoint import CheckpointMeta
from logbroker.wire.requests import EarliestTarget, MessageTarget
from tests.unit.node.catalogue.kit import bootstrap, cluster, create, join, over, rewind_to, run

META = CheckpointMeta(ReplicaId(2), b"configuration")


def busy() -> Catalogue:
    """A catalogue with something in every table."""
    catalogue = cluster(1, 2, without=(3,))
    create(catalogue, "q", partitions=70)
    create(catalogue, "gone")
    run(catalogue, DeleteQueue(QueueName("gone")))
    join(catalogue, 2, alive=2)
    join(catalogue, 3)
    run(catalogue, CreateToken("ann", b"s" * 32, (EVERYTHING,)))
    run(catalogue, rewind_to(MessageTarget([(1, 5), (69, 0)])))
    return catalogue


def encoded(catalogue: Catalogue) -> bytes:
    return b"".join(encode_slices(catalogue, META))


def test_a_checkpoint_gives_back_the_state_and_what_the_replica_added() -> None:
    catalogue = busy()
    restored, meta = decode(encoded(catalogue))
    assert meta == META
    assert restored.digest() == catalogue.digest()
    assert (restored.nodes(), restored.groups()) == (catalogue.nodes(), catalogue.groups())
    assert (restored.queues(), restored.rewinds()) == (catalogue.queues(), catalogue.rewinds())
    assert (restored.applied_index, restored.append_ms, restored.epoch) == (
        catalogue.applied_index,
        catalogue.append_ms,
        catalogue.epoch,
    )
    assert restored.principal(b"s" * 32) == catalogue.principal(b"s" * 32)


def test_a_restored_catalogue_gives_out_the_same_ids_as_one_that_grew() -> None:
    grown = busy()
    restored, _ = decode(encoded(grown))
    for catalogue in (grown, restored):
        create(catalogue, "more", partitions=3)
        join(catalogue, 1, alive=9)
    assert restored.digest() == grown.digest()


def test_an_empty_catalogue_has_a_checkpoint_too() -> None:
    assert decode(encoded(Catalogue.new()))[0].digest() == Catalogue.new().digest()


def test_the_state_is_captured_before_the_first_slice() -> None:
    catalogue = busy()
    expected = encoded(catalogue)
    slices = encode_slices(catalogue, META)
    create(catalogue, "later")
    assert b"".join(slices) == expected


def test_slices_are_bounded() -> None:
    assert max(len(part) for part in encode_slices(busy(), META)) < 64 * 1024


def test_every_flipped_byte_is_found() -> None:
    data = encoded(cluster())
    for position in range(len(data)):
        spoiled = bytearray(data)
        spoiled[position] ^= 0x40
        with pytest.raises(CorruptBatchError):
            decode(bytes(spoiled))


def test_every_cut_is_found() -> None:
    data = encoded(cluster())
    for size in range(len(data)):
        with pytest.raises(CorruptBatchError):
            decode(data[:size])


def sealed(body: bytes) -> bytes:
    return body + blake2b(body, digest_size=16).digest()


def framed(*sections: bytes, version: int = 1, magic: bytes = b"LBCATLOG") -> bytes:
    frames = b"".join(struct.pack(">I", len(part)) + part for part in sections)
    return sealed(struct.pack(">8sH", magic, version) + frames + bytes(4) + bytes(16))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (framed(b"\x92\x02\xc4\x00", b"\xff", magic=b"LBCHECKP"), "magic is missing"),
        (framed(b"\x92\x02\xc4\x00", b"\xff", version=2), "format version 2"),
        (framed(), "has no head"),
        (framed(b"\x92\x02\xc4\x00", b"\xc1"), "are not the head"),
        (framed(b"\x92\x02\xc4\x00", b"\x92\x02\x90"), "begins with RetiredSlice"),
        (framed(b"\xc0", b"\x92\x02\x90"), "meta section"),
    ],
)
def test_a_checkpoint_with_a_good_seal_and_bad_content_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CorruptBatchError, match=message):
        decode(data)


@pytest.mark.parametrize(
    ("counter", "message"),
    [
        ("next_group", "group 1 exists and the next is to be 1"),
        ("next_queue", "queue 1 exists and the next is to be 1"),
        ("next_replica", "replica 6 exists and the next is to be 1"),
        ("next_rewind", "rewind 1 exists and the next is to be 1"),
    ],
)
def test_a_counter_that_would_give_out_an_id_again_is_refused(counter: str, message: str) -> None:
    state = small_state()
    setattr(state, counter, 1)
    with pytest.raises(CorruptBatchError, match=f"contradicts itself: {message}"):
        decode(encoded(over(state)))


def test_tables_that_do_not_fit_each_other_are_refused() -> None:
    state = small_state()
    del state.groups[GroupId(1)]
    with pytest.raises(CorruptBatchError, match="group 1 belongs to no queue, or does not exist"):
        decode(encoded(over(state)))
    state = small_state()
    del state.groups[META_GROUP]
    with pytest.raises(CorruptBatchError, match="the meta group and the bootstrap go together"):
        decode(encoded(over(state)))


def test_a_checkpoint_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(busy())
    monkeypatch.setattr(checkpoint, "MAX_CHECKPOINT_BYTES", len(data) - 1)
    with pytest.raises(CorruptBatchError, match="too few or too many"):
        decode(data)


def small_state() -> CatalogueState:
    state = CatalogueState()
    catalogue = over(state)
    run(catalogue, bootstrap(1, 2, 3))
    create(catalogue, "q")
    run(catalogue, rewind_to(EarliestTarget()))
    return state
