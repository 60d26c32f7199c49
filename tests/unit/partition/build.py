"""Short ways to a partition in a certain state, for the tests of this folder."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from logbroker.entry import Entry, EntryKind
from logbroker.ids import DEFAULT_GROUP, GroupId, Index, LeaseId, Offset, Term
from logbroker.partition.commands import Floor, encode_changes, encode_floor
from logbroker.partition.decide import Propose, Refused, decide_receive
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.ordering import NO_KEY
from logbroker.partition.outcomes import Leased
from logbroker.record.batch import encode_values, stamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.ids import GroupName
    from logbroker.partition.commands import Change
    from logbroker.partition.decide import Decision
    from logbroker.partition.outcomes import Applied, Outcome
    from logbroker.partition.runs import Run

GROUP = GroupId(7)


def entry(
    machine: PartitionMachine, kind: EntryKind, payload: bytes = b"", *, count: int = 0, append_ms: int = 0
) -> Entry:
    """Return the entry that the machine expects next."""
    base = machine.next_offset
    index = Index(machine.applied_index + 1)
    return Entry(kind, GROUP, index, Term(2), base, Offset(base + count), append_ms, payload)


def batch(count: int, *, producer: tuple[int, int, int] = (-1, -1, -1), base_offset: int = 0) -> bytes:
    """Encode `count` records of (producer id, epoch, sequence), even of one that no encoder would make."""
    encoded = bytearray(stamp(encode_values([b"v"] * count, timestamp_ms=1), Offset(base_offset), 2))
    # The checksum does not fit any more; only the door looks at it.
    struct.pack_into(">qhi", encoded, 43, *producer)
    return bytes(encoded)


def produce(
    machine: PartitionMachine, count: int, *, producer: tuple[int, int, int] = (-1, -1, -1), append_ms: int = 0
) -> Applied:
    payload = batch(count, producer=producer, base_offset=machine.next_offset)
    return machine.apply(entry(machine, EntryKind.DATA, payload, count=count, append_ms=append_ms))


def change(machine: PartitionMachine, *changes: Change, append_ms: int = 0) -> tuple[Outcome, ...]:
    return machine.apply(entry(machine, EntryKind.STATE, encode_changes(changes), append_ms=append_ms)).outcomes


def move_floor(machine: PartitionMachine, start: int) -> Outcome:
    payload = encode_floor(Floor(start, machine.applied_index + 1))
    return machine.apply(entry(machine, EntryKind.FLOOR, payload)).outcomes[0]


def receive(
    machine: PartitionMachine,
    count: int,
    *,
    hide_ms: int = 30_000,
    now_ms: int = 0,
    group: GroupName = DEFAULT_GROUP,
    session: int = 0,
    request_id: int = 0,
) -> LeaseId:
    """Decide and apply a receive that must find something."""
    decision = decide_receive(
        machine,
        group,
        max_count=count,
        hide_ms=hide_ms,
        now_ms=now_ms,
        consumer="c",
        session=session,
        request_id=request_id,
    )
    assert isinstance(decision, Propose)
    outcome = change(machine, *decision.changes, append_ms=now_ms)[-1]
    assert isinstance(outcome, Leased)
    return outcome.lease


class ListedKeys:
    """The keys of a partition's messages, a letter each, `-` for none."""

    def __init__(self, letters: str = "") -> None:
        self._keys: list[int] = []
        self.add(letters)

    def add(self, letters: str) -> None:
        self._keys += [NO_KEY if letter == "-" else ord(letter) for letter in letters]

    def key(self, offset: int) -> int:
        return self._keys[offset]

    def keys(self, start: int, end: int) -> Sequence[int] | None:
        return self._keys[start:end]

    def few(self, start: int) -> tuple[int, frozenset[int]] | None:
        return None

    def held(self, start: int, end: int) -> tuple[int, ...] | None:
        return tuple(self._keys[start:end])


def with_messages(count: int) -> PartitionMachine:
    machine = PartitionMachine.new(GROUP)
    if count:
        produce(machine, count)
    return machine


def states(machine: PartitionMachine, group: GroupName = DEFAULT_GROUP) -> str:
    """Draw all messages from offset 0 on.

    Acked `.`, fresh `-`, returned `1`-`9`, leased `L`, delayed `D`, dead `X`, moving `M`, moved `m`.
    """
    return "".join(
        _letter(run) * (run.end - run.start) for run in machine.group(group).table.overlap(0, machine.next_offset)
    )


def refusal(decision: Decision) -> str:
    """Return code and message of a decision that must be a refusal."""
    assert isinstance(decision, Refused)
    return f"{decision.error.code}: {decision.error.message}"


def _letter(run: Run) -> str:
    letters = {"ACKED": ".", "LEASED": "L", "DELAYED": "D", "DEAD": "X", "MOVING": "M", "MOVED": "m"}
    letter = letters.get(run.state.name)
    return letter or (str(run.deliveries) if run.deliveries else "-")
