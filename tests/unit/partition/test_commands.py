from __future__ import annotations

import msgspec
import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupName
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cause,
    Change,
    CreateGroup,
    DeleteGroup,
    Expire,
    Extend,
    Floor,
    Lease,
    Nack,
    Pause,
    Purge,
    Release,
    Resume,
    Revive,
    Rewind,
    RewindFloor,
    SkipTo,
    decode_changes,
    decode_floor,
    encode_changes,
    encode_floor,
)

G = GroupName("g")

# The bytes are the format: a change here is a new format version.
GOLDEN: list[tuple[Change, str]] = [
    (CreateGroup(G, 5), "9301a16705"),
    (DeleteGroup(G), "9202a167"),
    (Lease(G, ((1, 3), (9, 300)), 70_000, "c", 8, 9), "9703a167929201039209cd012cce00011170a1630809"),
    (Ack(G, 1 << 16, ((0, 1),)), "9404a167ce00010000919200" + "01"),
    (Nack(G, 7, ((0, 1),), 3, "bad"), "9605a1670791920001" + "03a3626164"),
    (Extend(G, 7, ((0, 1),), 3), "9506a167079192000103"),
    (Release(G, 7), "9307a16707"),
    (Expire(G, ((2, 4),)), "9308a16791920204"),
    (Rewind(G, 1, 2, "-1h"), "9509a1670102a32d3168"),
    (SkipTo(G, 1, 2, "end"), "950aa1670102a3656e64"),
    (Bury(G, 7, ((0, 1),), Cause.REJECTED, "bad"), "960ba1670791920001" + "01a3626164"),
    (BuryExpired(G, ((2, 4),), "c"), "940ca16791920204a163"),
    (Revive(G, ((2, 4),)), "930da16791920204"),
    (BuryOld(G, 300), "9314a167cd012c"),
    (RewindFloor(300), "9215cd012c"),
    (Pause(G, "bad", 3), "940ea167a3626164" + "03"),
    (Resume(G), "920fa167"),
    (Purge(G, 1 << 62, 2, "all"), "9510a167cf4000000000000000" + "02a3616c6c"),
]


@pytest.mark.parametrize(("change", "golden"), GOLDEN, ids=[type(change).__name__ for change, _ in GOLDEN])
def test_a_change_has_these_bytes(change: Change, golden: str) -> None:
    assert encode_changes([change]) == bytes.fromhex("91" + golden)
    assert decode_changes(bytes.fromhex("91" + golden)) == (change,)


def test_changes_keep_their_order() -> None:
    changes = tuple(change for change, _ in GOLDEN)
    assert decode_changes(encode_changes(changes)) == changes


def test_a_floor_has_these_bytes() -> None:
    assert encode_floor(Floor(3, 700)) == bytes.fromhex("930103cd02bc")
    assert decode_floor(bytes.fromhex("930103cd02bc")) == Floor(3, 700)


@pytest.mark.parametrize(
    ("ranges", "fault"),
    [
        ((), "no ranges"),
        (((3, 3),), r"range \[3, 3\) is empty or begins before 0"),
        (((3, 2),), r"range \[3, 2\) is empty or begins before 0"),
        (((3, 5), (4, 6)), r"range \[4, 6\) is empty or begins before 5"),
    ],
)
def test_ranges_out_of_order_are_refused(ranges: tuple[tuple[int, int], ...], fault: str) -> None:
    with pytest.raises(CorruptBatchError, match=f"Expire of group g: {fault}"):
        decode_changes(encode_changes([Expire(G, ranges)]))


def test_ranges_that_touch_are_in_order() -> None:
    change = Expire(G, ((1, 2), (2, 3)))
    assert decode_changes(encode_changes([change])) == (change,)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes.fromhex("91930ba16705"), id="unknown tag"),
        pytest.param(bytes.fromhex("91940101a16705"), id="wrong type"),
        pytest.param(bytes.fromhex("919401a1670500"), id="a field too many"),
        pytest.param(bytes.fromhex("919201a167"), id="a field too few"),
        pytest.param(bytes.fromhex("919301a167ff"), id="a negative number"),
        pytest.param(bytes.fromhex("919301a167cf8000000000000000"), id="a number above 2^63 - 1"),
        pytest.param(bytes.fromhex("919301a1ff05"), id="a name that is not UTF-8"),
        pytest.param(bytes.fromhex("919301a005"), id="an empty name"),
        pytest.param(bytes.fromhex("919301a1670500"), id="bytes that follow"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="an array of 2^32 changes"),
        pytest.param(b"\x91" * 100_000, id="a deep nest"),
        pytest.param(msgspec.msgpack.encode([[7, "x" * 1025, 1]]), id="a long name"),
    ],
)
def test_bytes_that_are_no_changes_are_named(payload: bytes) -> None:
    with pytest.raises(CorruptBatchError, match="bytes are not changes"):
        decode_changes(payload)
    with pytest.raises(CorruptBatchError, match="bytes are not a floor"):
        decode_floor(payload)


def test_an_entry_holds_at_most_65536_changes() -> None:
    one = [DeleteGroup(G)]
    assert len(decode_changes(encode_changes(one * 65_536))) == 65_536
    with pytest.raises(CorruptBatchError, match="65537 changes in one entry; the most is 65536"):
        decode_changes(encode_changes(one * 65_537))
