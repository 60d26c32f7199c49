from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec
import pytest

from logbroker.errors import CorruptBatchError
from logbroker.ids import DEFAULT_GROUP, GroupName, ReplicaId
from logbroker.partition import state_form
from logbroker.partition.checkpoint import FORMAT_VERSION, CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import (
    Ack,
    Bury,
    Cancel,
    Cause,
    CreateGroup,
    DeliverAt,
    Nack,
    Pause,
    Purge,
    Rewind,
    SkipTo,
)
from logbroker.partition.leases import LeaseRecord
from logbroker.partition.pause import PauseRecord
from logbroker.partition.rewind import FIRST_PURGE_ID
from logbroker.partition.runs import Run, RunState
from logbroker.partition.state_form import GroupHead, Head, LeaseSlice, PauseSlice, RunSlice, Section, VoidSlice
from tests.unit.partition.build import change, move_floor, produce, receive, states, with_messages

if TYPE_CHECKING:
    from logbroker.partition.machine import PartitionMachine

D = DEFAULT_GROUP
META = CheckpointMeta(ReplicaId(12), b"voters 1 2 3")


def worked_on() -> PartitionMachine:
    """Return a partition with something of everything."""
    machine = with_messages(20)
    for producer in [(1, 1, 0), (2, 0, 0), (1, 0, 0)]:
        produce(machine, 2, producer=producer, append_ms=40)
    change(machine, CreateGroup(GroupName("audit"), 9))
    lease = receive(machine, 8, now_ms=50, session=3, request_id=4)
    change(machine, Ack(D, lease, ((2, 4),)), Nack(D, lease, ((4, 5),), 900, "r"), Nack(D, lease, ((6, 7),), 0, ""))
    change(machine, Bury(D, lease, ((5, 6),), Cause.REJECTED, "r"), append_ms=60)
    change(machine, Rewind(GroupName("audit"), 1, 7, "-1h"), SkipTo(GroupName("audit"), 2, 8, "8"))
    change(machine, Purge(GroupName("audit"), FIRST_PURGE_ID, 9, "all"), Pause(GroupName("audit"), "night", 900))
    move_floor(machine, 1)
    for due_ms in (5_000, 6_000):
        change(machine, DeliverAt(due_ms))
        produce(machine, 3, append_ms=70)
    change(machine, Cancel(((machine.next_offset - 2, machine.next_offset - 1),)))
    change(machine, DeliverAt(7_000))
    return machine


def sealed(*sections: bytes, digest: bytes = bytes(16), version: int = FORMAT_VERSION) -> bytes:
    """Seal sections as `encode_slices` does."""
    body = struct.pack(">8sH", b"LBCHECKP", version)
    for section in sections:
        body += struct.pack(">I", len(section)) + section
    body += bytes(4) + digest
    return body + blake2b(body, digest_size=16).digest()


def test_a_checkpoint_gives_back_state_and_meta() -> None:
    machine = worked_on()
    copy, meta = decode(b"".join(encode_slices(machine, META)))
    assert meta == META
    assert copy.digest() == machine.digest()
    assert copy.next_deadline_ms() == machine.next_deadline_ms() is not None
    for name in machine.groups:
        assert states(copy, name) == states(machine, name)
        assert copy.status(name) == machine.status(name)
        assert copy.group(name).pause == machine.group(name).pause


def test_a_retry_finds_its_lease_after_a_restart() -> None:
    """B24: neither the lease nor its deadline is lost or shortened."""
    machine = worked_on()
    copy, _ = decode(b"".join(encode_slices(machine, META)))
    record = copy.group(D).leases.find(3, 4)
    assert record is not None
    assert copy.holdings(D, record.lease) == machine.holdings(D, record.lease) != ()  # type: ignore[arg-type]


def test_rewinds_that_were_forgotten_stay_so_after_a_restart() -> None:
    machine = with_messages(1)
    change(machine, *[Rewind(D, i, 0, "") for i in range(1, 258)])
    copy, _ = decode(b"".join(encode_slices(machine, META)))
    assert copy.group(D).rewinds.forgotten_id == 1


def test_the_state_is_that_of_the_call_not_of_the_slices() -> None:
    machine = worked_on()
    digest = machine.digest()
    slices = encode_slices(machine, META)
    first = next(slices)
    change(machine, SkipTo(D, 7, 20, ""))
    produce(machine, 5)
    copy, _ = decode(first + b"".join(slices))
    assert copy.digest() == digest != machine.digest()


def test_slices_are_bounded_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = with_messages(200)
    for _ in range(100):
        receive(machine, 1, session=1, request_id=machine.applied_index)
    whole = list(encode_slices(machine, META))
    monkeypatch.setattr(state_form, "RUNS_PER_SLICE", 10)
    monkeypatch.setattr(state_form, "RANGES_PER_SLICE", 25)
    # Meta, head, group, 10 of runs, 4 of leases, end.
    assert len(list(encode_slices(machine, META))) == 18
    assert len(whole) == 6


def test_the_bytes_are_part_of_the_format() -> None:
    machine = with_messages(5)
    produce(machine, 1, producer=(3, 0, 0), append_ms=10)
    receive(machine, 2, now_ms=20, session=8, request_id=9)
    data = b"".join(encode_slices(machine, META))
    assert data.startswith(b"LBCHECKP\x00\x01\x00\x00\x00\x10\x92\x0c\xc4\x0cvoters 1 2 3")
    assert blake2b(data, digest_size=16).hexdigest() == "3d9bfdf5ab8a71b63fa39a7847715c71"


@pytest.mark.parametrize("kept", [0, 9, 40, -1])
def test_a_cut_checkpoint_is_refused(kept: int) -> None:
    data = b"".join(encode_slices(worked_on(), META))
    with pytest.raises(CorruptBatchError, match=r"too few|checksum"):
        decode(data[:kept])


def test_every_flipped_bit_is_noticed() -> None:
    data = b"".join(encode_slices(worked_on(), META))
    for i in range(len(data)):
        with pytest.raises(CorruptBatchError):
            decode(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])


def pack(section: object) -> bytes:
    return msgspec.msgpack.encode(section)


HEAD = Head(7, 3, 2, 10, 0, 1, 5)
DEFAULT = GroupHead(D, 0, 0, ())
LEASED = Run(0, 2, RunState.LEASED, 1, 9, 5, 1)
HELD = LeaseRecord(5, ((0, 2),), 2, "c", 1, 1)


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ([], "has no head or no default group"),
        ([HEAD], "has no head or no default group"),
        ([HEAD, GroupHead(GroupName("g"), 0, 0, ())], "has no head or no default group"),
        ([HEAD, RunSlice((LEASED,)), DEFAULT], "stand before the first group"),
        ([Head(7, 3, 2, 10, 11, 1, 5), DEFAULT], "log start 11 lies beyond the log end 10"),
        ([HEAD, GroupHead(D, 11, 0, ())], "group 'default' lies outside of the log"),
        ([HEAD, VoidSlice(((3, 3),)), DEFAULT], "void ranges lie outside of the log or out of order"),
        ([HEAD, VoidSlice(((3, 11),)), DEFAULT], "void ranges lie outside of the log or out of order"),
        ([Head(7, 3, 2, 10, 4, 1, 5), VoidSlice(((3, 5),)), GroupHead(D, 4, 0, ())], "void ranges lie outside"),
        ([HEAD, DEFAULT, RunSlice((LEASED,))], "runs and leases of group 'default' contradict each other"),
        ([HEAD, DEFAULT, LeaseSlice((HELD,))], "runs and leases of group 'default' contradict each other"),
        (
            [HEAD, DEFAULT, RunSlice((Run(1, 2, RunState.LEASED, 1, 9, 5, 1),))],
            r"run \[1, 2\) does not follow offset 0",
        ),
        (
            [HEAD, DEFAULT, RunSlice((Run(0, 0, RunState.LEASED, 1, 9, 5, 1),))],
            r"run \[0, 0\) does not follow offset 0",
        ),
        ([HEAD, DEFAULT, RunSlice((LEASED, Run(2, 3, RunState.LEASED, 1, 9, 5, 1)))], "not in canonical form"),
        ([HEAD, DEFAULT, RunSlice((Run(0, 2, RunState.LEASED),))], "not in canonical form"),
        ([HEAD, DEFAULT, RunSlice((Run(0, 2, RunState.AVAILABLE),))], "begin acked or end fresh"),
        ([HEAD, DEFAULT, RunSlice((Run(0, 2, RunState.ACKED),))], "begin acked or end fresh"),
        ([HEAD, DEFAULT, LeaseSlice((HELD, HELD))], "lease 5 follows lease 5"),
        (
            [HEAD, DEFAULT, LeaseSlice((LeaseRecord(5, ((0, 2),), 0, "c", 1, 1),))],
            "lease 5 follows lease 0 and holds 0",
        ),
        ([HEAD, DEFAULT, LeaseSlice((LeaseRecord(5, ((2, 2),), 1, "c", 1, 1),))], r"lease 5: range \[2, 2\) is empty"),
        (
            [HEAD, DEFAULT, LeaseSlice((HELD, LeaseRecord(6, ((2, 3),), 1, "c", 1, 1)))],
            "lease 6 repeats request 1",
        ),
        ([HEAD, PauseSlice(PauseRecord("r", 3, 0)), DEFAULT], "stand before the first group"),
        ([HEAD, DEFAULT, PauseSlice(PauseRecord("r", 3, 0)), PauseSlice(PauseRecord("r", 3, 0))], "two pauses"),
        ([HEAD, DEFAULT, PauseSlice(PauseRecord("r", 3, 3))], "a pause from 3 ends at 3, before it began"),
        ([HEAD, DEFAULT], "does not have the digest that it states"),
    ],
)
def test_a_sealed_checkpoint_of_an_impossible_state_is_refused(sections: list[Section], fault: str) -> None:
    with pytest.raises(CorruptBatchError, match=fault):
        decode(sealed(pack([1, b""]), *[pack(section) for section in sections]))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (sealed(), "has no sections"),
        (sealed(b"\xc1"), "are not the meta section"),
        (sealed(pack([1, b""]), b"\xc1"), "are not a section"),
        (sealed(pack([1, b""]), pack([99, 1])), "are not a section"),
        (sealed(version=2), "format version 2; this program reads 1"),
        (b"X" * 60, "the magic is missing"),
    ],
)
def test_sealed_bytes_that_are_no_checkpoint_are_refused(data: bytes, fault: str) -> None:
    with pytest.raises(CorruptBatchError, match=fault):
        decode(data)


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        (bytes([0, 0, 0, 9, 1]), "a section of 9 bytes is cut at 1"),
        (bytes([0, 0, 0, 1, 1]), "has no end"),
        (bytes(4) + b"more", "4 bytes follow the end"),
    ],
)
def test_frames_that_do_not_end_well_are_refused(frames: bytes, fault: str) -> None:
    body = struct.pack(">8sH", b"LBCHECKP", FORMAT_VERSION) + frames + bytes(16)
    with pytest.raises(CorruptBatchError, match=fault):
        decode(body + blake2b(body, digest_size=16).digest())
