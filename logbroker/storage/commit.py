"""The log thread's work: one group commit of everything that became ready in all groups since the last.

Order within a job, each durable before the next: room for the entries in their segments, votes, the WAL. A replica
whose room cannot be had is refused alone; nothing was promised for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.errors import DiskFullError
from logbroker.ids import GroupId, Index, ReplicaId, Term
from logbroker.storage.ballast import Ballast, Room
from logbroker.storage.flush import SPARE_NAME
from logbroker.storage.lives import GROUPS_DIRECTORY, CreateBody, InstallBody, encode_body, replica_directory
from logbroker.storage.wal_format import FrameKind, WalFrame, align_up, entry_frame, life_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logbroker.entry import Entry
    from logbroker.storage.disk import Disk, File
    from logbroker.storage.partition_log import RoomRequest
    from logbroker.storage.votes import VoteStore
    from logbroker.storage.wal import Wal


@final
@dataclass(frozen=True, slots=True)
class ReplicaWrite:
    """What one replica needs durable: term and vote, and a snapshot's switch or entries."""

    replica: ReplicaId
    vote: tuple[Term, ReplicaId] | None = None
    entries: tuple[Entry, ...] = ()
    install: InstallBody | None = None

    def frames(self) -> list[WalFrame]:
        found = [entry_frame(self.replica, entry) for entry in self.entries]
        if self.install is not None:
            body = encode_body(self.install)
            index, term = Index(self.install.index), Term(self.install.term)
            found.insert(0, life_frame(FrameKind.INSTALL, self.replica, body, index=index, term=term))
        return found


@final
@dataclass(frozen=True, slots=True)
class Birth:
    """A replica to create: its directory, its vote slot and its CREATE frame, before its first message."""

    group: GroupId
    replica: ReplicaId
    initial_conf: bytes


@final
@dataclass
class CommitJob:
    """Run once, on the log thread; then given back to the store."""

    disk: Disk
    wal: Wal
    votes: VoteStore
    ballast: Ballast
    writes: tuple[ReplicaWrite, ...] = ()
    births: tuple[Birth, ...] = ()
    deaths: tuple[ReplicaId, ...] = ()
    mends: tuple[ReplicaWrite, ...] = ()
    """Good copies of entries that are damaged further back in the WAL."""
    carried: tuple[WalFrame, ...] = ()
    """Uncommitted entries of older WAL files, written again first so that those files can be let go."""
    rolls: bool = False
    beyond_max: bool = False
    """This roll lets older files go, so it may take one more than the ring should have."""
    has_begun: bool = False
    """Something was written; before that a job that raised may be planned again."""
    seals: bool = False
    scrubs_votes: bool = False
    """Hold both copies of the votes against each other; `mended_votes` says how many slots had rotted."""
    mended_votes: int = 0
    room: Room | None = None
    """Room level to go to before anything else; AMPLE tries to make the ballast again."""
    room_requests: Mapping[ReplicaId, RoomRequest] = field(default_factory=dict)
    granted: list[RoomRequest] = field(default_factory=list)
    refused: set[ReplicaId] = field(default_factory=set)
    room_reached: Room | None = None

    def run(self) -> None:
        """Make it all durable.

        Raises:
            StoreFailedError: the node must stop.
            DiskFullError, OverloadedError: there is no room for a replica's birth or a WAL file; if `has_begun` is
                false, nothing was promised and the same may be planned again.
        """
        if self.room is not None:
            self._change_room(self.room)
        self._reserve()
        for birth in self.births:
            self.disk.mkdir(replica_directory(birth.group, birth.replica))
            if self.votes.get(birth.replica) is None:
                self.votes.add(birth.replica)
        if self.births:
            self.disk.sync_dir(GROUPS_DIRECTORY)
        if self.rolls:
            self.wal.make_room(beyond_max=self.beyond_max)
        self.has_begun = True
        votes = {write.replica: write.vote for write in self.writes if write.vote is not None}
        if self.scrubs_votes:
            self.mended_votes = self.votes.scrub()
        if votes:
            self.votes.save(votes)
        self._write_wal()
        for replica in self.deaths:
            # A replica may end because its vote is lost: then it has no slot.
            if self.votes.get(replica) is not None:
                self.votes.remove(replica)

    def _change_room(self, room: Room) -> None:
        if room is Room.AMPLE:
            self.room_reached = self.ballast.fill()
        else:
            self.ballast.release(room)
            self.room_reached = room

    def _reserve(self) -> None:
        for replica, request in self.room_requests.items():
            try:
                reserve_room(self.disk, request)
            except DiskFullError:
                self.refused.add(replica)
            else:
                self.granted.append(request)

    def _write_wal(self) -> None:
        frames = list(self.carried)
        for birth in self.births:
            frames.append(
                life_frame(FrameKind.CREATE, birth.replica, encode_body(CreateBody(birth.group, birth.initial_conf)))
            )
        for write in (*self.mends, *self.writes):
            if write.replica not in self.refused:
                frames.extend(write.frames())
        frames.extend(life_frame(FrameKind.DELETE, replica, b"") for replica in self.deaths)
        if self.rolls:
            self.wal.roll()
        # A new file always begins with a commit, so that the flush record may name its start.
        if frames or self.rolls:
            self.wal.commit(frames)
        elif self.seals:
            self.wal.seal()


def reserve_room(disk: Disk, request: RoomRequest) -> None:
    """Preallocate what a request asks for, or on a full disk no more than what it needs; blocking.

    Raises:
        DiskFullError: not even that is to be had; nothing was taken.
    """
    if request.target is not None:
        _allocate(request.target.file, request)
        return
    file = disk.open(f"{request.log.state.directory}/{SPARE_NAME}", create=True)
    try:
        _allocate(file, request)
    except DiskFullError:
        file.close()
        raise
    request.opened = file


def _allocate(file: File, request: RoomRequest) -> None:
    try:
        file.allocate(0, request.allocated_bytes)
    except DiskFullError:
        needed = align_up(request.needed_bytes)
        if needed >= request.allocated_bytes:
            raise
        file.allocate(0, needed)
        request.allocated_bytes = needed
