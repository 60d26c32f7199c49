"""Term and vote of every replica of the node, in two copies of fixed slots: `vote.a` and `vote.b`.

Raft is safe only if a vote is never forgotten, so each change is written and synced to the first copy and
then to the second before anything is said: whatever a crash tears, one copy holds a whole slot, and a slot
that nobody was told of may be lost. It knows nothing of the log; which replicas are alive is told to it.

A slot is 64 bytes, big endian:

    0   magic "LBVT"        16  sequence u64, one up at each change of the slot
    4   format version u32  24  term u64
    8   replica id u64      32  voted for, replica id u64 or 0
    40  zeros               60  CRC-32C over salt, slot position and bytes 0..60

Salt and position under the checksum make a slot of another node's directory, or one that was written to
the wrong place, a bad one. 64 zeros are a slot that was never used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, final

from logbroker.errors import DamageError, invariant
from logbroker.ids import NO_REPLICA, ReplicaId, Term
from logbroker.record.checksum import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from logbroker.storage.disk import Disk, File

COPIES: Final = ("vote.a", "vote.b")
SLOT_BYTES: Final = 64
PAGE_BYTES: Final = 4096
FORMAT_VERSION: Final = 1

_MAGIC: Final = b"LBVT"
_BODY: Final = struct.Struct(">4sIQQQQ20x")
_CRC: Final = struct.Struct(">I")
_POSITION: Final = struct.Struct(">Q")
_SLOTS_PER_PAGE: Final = PAGE_BYTES // SLOT_BYTES
_ZEROS: Final = bytes(SLOT_BYTES)


@final
@dataclass(frozen=True, slots=True)
class Vote:
    """What a replica has promised: in `term` it voted for `voted_for`, or for nobody yet if that is 0."""

    term: Term
    voted_for: ReplicaId


@final
@dataclass(frozen=True, slots=True)
class VoteStatistics:
    """`damaged_slots` are positions that were unreadable in both copies at the start; whose they were is
    known only by which live replica has none (`VoteStore.lost`)."""

    slot_count: int
    replica_count: int
    mended_slots: tuple[int, ...]
    damaged_slots: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class _Slot:
    sequence: int
    replica: ReplicaId
    vote: Vote


@final
@dataclass(frozen=True, slots=True)
class VotesFound:
    """What both copies say together, unchanged. `one_sided` are positions that only one copy has right;
    `damaged` those that neither has, or that two positions claim."""

    votes: Mapping[ReplicaId, Vote]
    one_sided: tuple[int, ...]
    damaged: tuple[int, ...]


_NO_TERM: Final = Term(0)
_UNUSED: Final = _Slot(0, NO_REPLICA, Vote(_NO_TERM, NO_REPLICA))


@final
class VoteStore:
    """The votes of one node. Used by one thread at a time; reading is from memory.

    The order that makes "no slot" mean "lost": `add` before the replica's creation is durable anywhere,
    `remove` after its deletion is.
    """

    def __init__(self, files: tuple[File, File], salt: bytes) -> None:
        """Use `open`."""
        self._files = files
        self._salt_crc = crc32c(salt)
        self._slots: list[_Slot] = []
        # Of a slot's writes also the failed ones count: a sequence is never given to two contents.
        self._sequences: list[int] = []
        self._positions: dict[ReplicaId, int] = {}
        # Taken from the end: low positions first, damaged ones last of all.
        self._free: list[int] = []
        self._mended: tuple[int, ...] = ()
        self._damaged: tuple[int, ...] = ()

    @classmethod
    def open(cls, disk: Disk, salt: bytes) -> VoteStore:
        """Read both copies and make them whole and durable again, before anything may be said.

        Missing files are made. `salt` is the node's, from `node.json`.

        Raises:
            DiskFullError: the copies could not be mended.
            StoreFailedError: as every write.
        """
        is_whole = all(map(disk.exists, COPIES))
        first = disk.open(COPIES[0], create=True)
        try:
            second = disk.open(COPIES[1], create=True)
            store = cls((first, second), salt)
            try:
                if not is_whole:
                    disk.sync_dir("")
                store._load()
            except BaseException:
                second.close()
                raise
        except BaseException:
            first.close()
            raise
        return store

    @classmethod
    def look(cls, disk: Disk, salt: bytes) -> VotesFound:
        """Read both copies and change nothing.

        Raises:
            MissingFileError: a copy is not there.
        """
        with disk.open(COPIES[0]) as first, disk.open(COPIES[1]) as second:
            store = cls((first, second), salt)
            one, other = store._read_both()
            chosen = [_choose(*pair) for pair in zip(one, other, strict=True)]
            store._believe(one, other, chosen)
            uneven = (place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
            votes = {replica: store._slots[position].vote for replica, position in store._positions.items()}
            damaged = store._damaged
            return VotesFound(votes, tuple(place for place in uneven if place not in damaged), damaged)

    def get(self, replica: ReplicaId) -> Vote | None:
        """The durable vote; None for a replica without a readable slot."""
        position = self._positions.get(replica)
        return None if position is None else self._slots[position].vote

    def replicas(self) -> tuple[ReplicaId, ...]:
        """Replicas with a slot, in order of ids; after `open` deleted ones too, until they are removed."""
        return tuple(sorted(self._positions))

    def lost(self, live: Iterable[ReplicaId]) -> tuple[ReplicaId, ...]:
        """Those of the live replicas that have no readable slot in either copy: unknown loss."""
        return tuple(replica for replica in live if replica not in self._positions)

    def add(self, replica: ReplicaId, *, term: Term = _NO_TERM) -> None:
        """Give a new replica a slot, without a vote, durable in both copies. Takes the slot of a deleted one.

        Raises:
            DiskFullError: there is no slot.
        """
        invariant(
            replica != NO_REPLICA and replica not in self._positions, f"replica {replica} has a vote slot already"
        )
        if not self._free:
            self._grow()
        position = self._free[-1]
        self._write({position: _Slot(self._next_sequence(position), replica, Vote(term, NO_REPLICA))})
        self._free.pop()
        self._positions[replica] = position

    def save(self, changes: Mapping[ReplicaId, tuple[Term, ReplicaId]]) -> None:
        """Make new terms and votes durable in both copies, all with two syncs; what is no change is not written.

        Raises:
            InvariantError: a term would go back, or a vote of a term be changed (Raft section 5.2).
        """
        slots: dict[int, _Slot] = {}
        for replica, (term, voted_for) in changes.items():
            position = self._positions.get(replica, -1)
            invariant(position >= 0, f"replica {replica} has no vote slot")
            old = self._slots[position].vote
            if (term, voted_for) == (old.term, old.voted_for):
                continue
            invariant(
                term > old.term or (term == old.term and old.voted_for == NO_REPLICA),
                f"replica {replica} voted for {old.voted_for} in term {old.term}, "
                f"and now for {voted_for} in term {term}",
            )
            slots[position] = _Slot(self._next_sequence(position), replica, Vote(term, voted_for))
        if slots:
            self._write(slots)

    def remove(self, replica: ReplicaId) -> None:
        """Let another replica take the slot. Writes nothing: ids are never reused, so the old slot can mislead
        nobody; it is seen again by the next `open`."""
        position = self._positions.pop(replica, -1)
        invariant(position >= 0, f"replica {replica} has no vote slot")
        self._free.append(position)

    def scrub(self) -> int:
        """Hold both copies against what is known, write again what rotted in them; gives the number of slots.

        For the thread that saves votes, like every other call.
        """
        mended = 0
        for file in self._files:
            file.forget_cached(file.size(), 0)
            found = self._read(file, len(self._slots) // _SLOTS_PER_PAGE)
            bad = {
                position: slot
                for position, slot in enumerate(self._slots)
                if found[position] != slot and position not in self._damaged
            }
            if bad:
                self._put(file, bad)
                # One copy is whole while the other is written, as ever.
                file.sync()
                mended += len(bad)
        return mended

    def statistics(self) -> VoteStatistics:
        return VoteStatistics(len(self._slots), len(self._positions), self._mended, self._damaged)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _next_sequence(self, position: int) -> int:
        self._sequences[position] += 1
        return self._sequences[position]

    def _write(self, slots: Mapping[int, _Slot]) -> None:
        for file in self._files:
            self._put(file, slots)
            # The second copy is not touched before the first is durable: one is whole at any time.
            file.sync()
        for position, slot in slots.items():
            self._slots[position] = slot

    def _put(self, file: File, slots: Mapping[int, _Slot]) -> None:
        for run in _runs(sorted(slots)):
            file.pwrite([self._encode(slots[position], position) for position in run], run.start * SLOT_BYTES)

    def _grow(self) -> None:
        start = len(self._slots)
        for file in self._files:
            file.pwrite([bytes(PAGE_BYTES)], start * SLOT_BYTES)
        self._slots.extend([_UNUSED] * _SLOTS_PER_PAGE)
        self._sequences.extend([0] * _SLOTS_PER_PAGE)
        self._free.extend(reversed(range(start, start + _SLOTS_PER_PAGE)))

    def _load(self) -> None:
        first, second = self._read_both()
        page_count = len(first) // _SLOTS_PER_PAGE
        chosen = [_choose(one, other) for one, other in zip(first, second, strict=True)]
        for file in self._files:
            # Zeros are what is read behind the end already; whole pages keep later slots where they belong.
            if missing_bytes := page_count * PAGE_BYTES - file.size():
                file.pwrite([bytes(missing_bytes)], file.size())
        self._mend(first, second, chosen)
        self._believe(first, second, chosen)

    def _read_both(self) -> tuple[list[_Slot | None], list[_Slot | None]]:
        page_count = max(-(-file.size() // PAGE_BYTES) for file in self._files)
        first, second = (self._read(file, page_count) for file in self._files)
        return first, second

    def _believe(self, first: list[_Slot | None], second: list[_Slot | None], chosen: list[_Slot | None]) -> None:
        holders: dict[ReplicaId, int] = {}
        damaged = {position for position, slot in enumerate(chosen) if slot is None}
        for position, slot in enumerate(chosen):
            if slot is not None and slot is not _UNUSED:
                # Two slots of one replica come from no crash; which of them is right cannot be known.
                if slot.replica in holders:
                    damaged |= {position, holders[slot.replica]}
                holders[slot.replica] = position
        self._slots = [_UNUSED if slot is None else slot for slot in chosen]
        self._sequences = [
            max(slot.sequence for slot in (one, other, _UNUSED) if slot is not None)
            for one, other in zip(first, second, strict=True)
        ]
        self._positions = {replica: position for replica, position in holders.items() if position not in damaged}
        unused = [position for position, slot in enumerate(chosen) if slot is _UNUSED]
        self._free = [*sorted(damaged, reverse=True), *reversed(unused)]
        self._damaged = tuple(sorted(damaged))

    def _mend(self, first: list[_Slot | None], second: list[_Slot | None], chosen: list[_Slot | None]) -> None:
        """Make both copies equal and durable, never writing over the only copy of what was promised.

        What is read may be only in the page cache, left there by a process that was killed or whose sync
        failed; so it is written again and not only synced. Where both copies are equal the first is durable,
        because the second is written after the sync of the first; the second may not be.
        """
        # Nothing that an earlier process left may still be on its way to one copy while the other is written.
        for file in self._files:
            file.sync()
        into_second_first, into_first, into_second = {}, {}, {}
        for position, slot in enumerate(chosen):
            one, other = first[position], second[position]
            if slot is None or (one == other and slot is _UNUSED):
                continue
            into_second[position] = slot
            if one == other:
                continue
            into_first[position] = slot
            if one == slot and (other is None or other is _UNUSED):
                into_second_first[position] = slot
        for file, slots in (
            (self._files[1], into_second_first),
            (self._files[0], into_first),
            (self._files[1], into_second),
        ):
            if slots:
                self._put(file, slots)
                file.sync()
        self._mended = tuple(into_first)

    def _read(self, file: File, page_count: int) -> list[_Slot | None]:
        slots: list[_Slot | None] = []
        for page in range(page_count):
            try:
                data = file.pread(PAGE_BYTES, page * PAGE_BYTES).ljust(PAGE_BYTES, b"\0")
            except DamageError:
                slots.extend([None] * _SLOTS_PER_PAGE)
                continue
            for place in range(_SLOTS_PER_PAGE):
                raw = data[place * SLOT_BYTES : (place + 1) * SLOT_BYTES]
                slots.append(self._decode(raw, page * _SLOTS_PER_PAGE + place))
        return slots

    def _encode(self, slot: _Slot, position: int) -> bytes:
        if slot is _UNUSED:
            return _ZEROS
        body = _BODY.pack(_MAGIC, FORMAT_VERSION, slot.replica, slot.sequence, slot.vote.term, slot.vote.voted_for)
        return body + _CRC.pack(self._crc(body, position))

    def _decode(self, raw: bytes, position: int) -> _Slot | None:
        """The slot, or None for a bad one."""
        if raw == _ZEROS:
            return _UNUSED
        body = raw[: _BODY.size]
        if _CRC.unpack_from(raw, _BODY.size)[0] != self._crc(body, position):
            return None
        magic, version, replica, sequence, term, voted_for = _BODY.unpack(body)
        if (magic, version) != (_MAGIC, FORMAT_VERSION):
            return None
        return _Slot(sequence, ReplicaId(replica), Vote(Term(term), ReplicaId(voted_for)))

    def _crc(self, body: bytes, position: int) -> int:
        return crc32c(body, crc32c(_POSITION.pack(position), self._salt_crc))


def _choose(one: _Slot | None, other: _Slot | None) -> _Slot | None:
    """The slot to believe; None where there is none."""
    if one is None or other is None:
        return one or other
    if one.sequence != other.sequence:
        return one if one.sequence > other.sequence else other
    return one if one == other else None


def _runs(positions: list[int]) -> list[range]:
    """Neighbours together, so that each run is one write."""
    breaks = [0, *(place for place, (one, two) in enumerate(pairwise(positions), 1) if two != one + 1), len(positions)]
    return [range(positions[start], positions[end - 1] + 1) for start, end in pairwise(breaks)]
