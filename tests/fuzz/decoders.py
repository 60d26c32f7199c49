"""Every decoder of bytes that somebody else may have made: a client, a server, a peer, a disk, an operator.

Each has its errors, some good inputs to begin with, and, where a checksum keeps chance out, the way to make it true
again: what a traitor sends is sealed. Used by the property tests, and by the fuzzer for the long runs.
"""

from __future__ import annotations

import json
import struct
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from pydantic import ValidationError

from logbroker.config import Settings
from logbroker.entry import EntryKind
from logbroker.errors import (
    ConfigurationError,
    CorruptBatchError,
    DamageError,
    InvalidArgumentError,
    LogBrokerError,
    RemoteProtocolError,
    RequestTooLargeError,
)
from logbroker.ids import DEFAULT_GROUP, GroupId, Index, NodeId, Offset, QueueName, ReplicaId, Term
from logbroker.node.catalogue import checkpoint as catalogue_checkpoint
from logbroker.node.catalogue.commands import (
    CreateQueue,
    CreateQueueWith,
    DeleteQueue,
    decode_commands,
    encode_commands,
)
from logbroker.node.catalogue.rights import parse_grant
from logbroker.node.catalogue.rows import QueueSettings
from logbroker.node.cluster_file import COPIES as CLUSTER_COPIES
from logbroker.node.cluster_file import ClusterFile, ClusterState
from logbroker.node.cluster_messages import (
    ClusterMessage,
    Join,
    Phase,
    Record,
    Report,
    Standing,
    decode_cluster_message,
    encode_cluster_message,
)
from logbroker.node.forwarding import decode_answered, decode_asked, encode_answered, encode_asked
from logbroker.node.pack_frames import PackFrames
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
)
from logbroker.node.peer_messages import (
    Beat,
    EntryCopy,
    EntryFetch,
    EntryGone,
    HeartbeatAnswers,
    Heartbeats,
    RaftMessage,
    SnapshotAck,
    SnapshotChunk,
    Transfer,
    TransferAnswer,
    decode_peer_message,
    encode_peer_message,
)
from logbroker.node.requests import GroupReply, MoveVerdict, PauseRequest, StateRequest
from logbroker.partition import checkpoint as partition_checkpoint
from logbroker.partition.checkpoint import CheckpointMeta
from logbroker.partition.commands import (
    Ack,
    Bury,
    BuryExpired,
    BuryOld,
    Cancel,
    Cause,
    Change,
    CreateGroup,
    Dedupe,
    DeliverAt,
    Floor,
    ForgetSource,
    Lease,
    Moved,
    MoveIn,
    MoveOut,
    Pause,
    Purge,
    Resume,
    Revive,
    RewindFloor,
    decode_changes,
    decode_floor,
    encode_changes,
    encode_floor,
)
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal
from logbroker.raft.messages import ConfState, Message, MessageKind, SnapshotMeta
from logbroker.record.batch import BatchLimits, Codec, batch_keys, check_batch, encode_batch, read_batch, read_header
from logbroker.record.batch import Record as BatchRecord
from logbroker.record.checksum import crc32c
from logbroker.storage.checkpoints import CheckpointHeader, checkpoint_path, read_checkpoint, write_checkpoint
from logbroker.storage.entry_codec import ENTRY_HEAD_BYTES, decode_entry, decode_head, seal_entry
from logbroker.storage.flush_record import COPIES as FLUSH_COPIES
from logbroker.storage.flush_record import FlushRecord, ReplicaRow, SegmentEntry, encode_record, read_copies
from logbroker.storage.identity import NODE_FILE, NodeIdentity, read_identity, write_identity
from logbroker.storage.index import decode_index_row
from logbroker.storage.lives import CreateBody, InstallBody, decode_create, decode_install, encode_body
from logbroker.storage.segment import SegmentRow, encode_segment_header, segment_path, write_entries
from logbroker.storage.segment_check import SegmentCheck
from logbroker.storage.simulated_disk import SimulatedDisk
from logbroker.storage.votes import COPIES as VOTE_COPIES
from logbroker.storage.votes import VoteStore
from logbroker.storage.wal import file_path
from logbroker.storage.wal_format import (
    PAGE_BYTES,
    WalFrame,
    WalPosition,
    check_commit,
    decode_header,
    encode_commit,
    entry_frame,
    life_frame,
)
from logbroker.storage.wal_format import (
    FrameKind as WalKind,
)
from logbroker.storage.wal_scan import WalScanner
from logbroker.wire.data_frames import DataFrames
from logbroker.wire.frames import FrameLimits, encode_frame, split_message
from logbroker.wire.json_messages import delivered
from logbroker.wire.protocol import ServerProtocol
from logbroker.wire.requests import BatchPart, Received, decode_reply, decode_request, encode_header
from logbroker.wire.requests import Hello as ClientHello
from logbroker.wire.requests import Welcome as ClientWelcome
from logbroker.wire.text_frames import TextFrames
from tests.raw_batches import reseal
from tests.unit.node.catalogue import kit as catalogue_kit
from tests.unit.partition.test_checkpoint import worked_on
from tests.unit.wire.json_kit import opened
from tests.unit.wire.test_json_types import GOLDEN
from tests.unit.wire.test_vectors import VECTORS

if TYPE_CHECKING:
    from collections.abc import Callable

TAG = b"12345678"
SALT = b"s" * 16
SALT_CRC = crc32c(SALT)
GROUP, REPLICA = GroupId(1), ReplicaId(7)
LIFE = b"i" * 16
_ITEM_BYTES = struct.calcsize(">B3xIQQQI")
LIMITS = BatchLimits(max_batch_bytes=1 << 16, max_record_bytes=1 << 16, max_uncompressed_bytes=1 << 18)
ENTRY = seal_entry(
    EntryKind.DATA,
    group=GROUP,
    index=Index(1),
    term=Term(1),
    base_offset=Offset(0),
    next_offset=Offset(1),
    append_ms=1_000,
    payload=b"payload",
)


@dataclass(frozen=True)
class Decoder:
    """`decode` gives a value for any bytes or raises one of `errors`; nothing else."""

    decode: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: list[bytes] = field(default_factory=list)
    seal: Callable[[bytes], bytes] | None = None


def _message(data: bytes) -> None:
    server = ServerProtocol()
    server.receive(encode_frame(encode_header(ClientHello(1))))
    server.reply(ClientWelcome(1, version=1, node=1, cluster="c", limits=server.limits))
    server.receive(data)


def _websocket(data: bytes) -> None:
    frames = DataFrames(is_masked=True, max_message_bytes=1 << 16)
    frames.feed(data)
    place = frames.rest_of_message()
    assert place is None or len(place) <= 1 << 16


def _text(data: bytes) -> None:
    opened(batch_limits=LIMITS).receive(data)


def _text_frames(data: bytes) -> None:
    frames = TextFrames(is_masked=True, max_message_bytes=1 << 16)
    for start in range(0, len(data), 7):
        for message in frames.feed(data[start : start + 7])[0]:
            message.decode()


def _delivered(data: bytes) -> None:
    """A batch of a stranger, shown to somebody else."""
    part = BatchPart(size_bytes=len(data), base_offset=0, append_ms=1, ranges=[(0, 5, 1)])
    delivered(Received(1, lease=1, visible_at_ms=1, hide_left_ms=1, parts=[part]), data, limits=LIMITS)


def _splitter(data: bytes) -> None:
    splitter = FrameSplitter(1 << 16)
    for start in range(0, len(data), 7):
        splitter.feed(data[start : start + 7])


# --- seals ---


def seal_entry_bytes(data: bytes) -> bytes:
    """Give the entry that begins `data` both of its checksums."""
    if len(data) < ENTRY_HEAD_BYTES:
        return data
    fields, payload = data[: ENTRY_HEAD_BYTES - 8], data[ENTRY_HEAD_BYTES:]
    covered = fields + struct.pack(">I", crc32c(payload, crc32c(fields)))
    return covered + struct.pack(">I", crc32c(covered)) + payload


def seal_flush_record(data: bytes) -> bytes:
    body = data[16:]
    return encode_record(FlushRecord(1, 1), SALT_CRC)[:8] + struct.pack(">II", len(body), crc32c(body, SALT_CRC)) + body


def seal_json(data: bytes) -> bytes:
    """Whatever fields there are, with their checksum."""
    try:
        fields = json.loads(data)
        fields.pop("crc", None)
        if "salt" in fields:
            covered = {key: fields[key] for key in ("format", "node", "incarnation", "salt")}
        else:
            covered = fields
        text = json.dumps(covered, sort_keys=True, separators=(",", ":")).encode()
        return json.dumps({**fields, "crc": crc32c(text)}).encode()
    except (ValueError, AttributeError, RecursionError, KeyError):
        return data


def seal_commit(data: bytes) -> bytes:
    """The header's checksum, whatever count of frames the header states."""
    fixed = len(_commit([])) - 4 - 12
    if len(data) < fixed:
        return data
    count = int.from_bytes(data[fixed - 4 : fixed], "big")
    end = fixed + _ITEM_BYTES * count
    if end + 4 > len(data):
        return data
    return data[:end] + struct.pack(">I", crc32c(data[:end], SALT_CRC)) + data[end + 4 :]


def seal_vote(data: bytes) -> bytes:
    body = data[:60].ljust(60, b"\0")
    return body + struct.pack(">I", crc32c(body, crc32c(struct.pack(">Q", 0), SALT_CRC))) + data[64:]


# --- files ---


def _on_disk(path: str, data: bytes) -> SimulatedDisk:
    disk = SimulatedDisk()
    directory = ""
    for part in path.split("/")[:-1]:
        directory = f"{directory}/{part}" if directory else part
        disk.mkdir(directory)
    with disk.open(path, create=True) as file:
        if data:
            file.pwrite([data], 0)
    return disk


def _content(disk: SimulatedDisk, path: str) -> bytes:
    with disk.open(path) as file:
        return file.pread(file.size(), 0)


def _commit(frames: list[WalFrame]) -> bytes:
    at = WalPosition(1, 0)
    parts = encode_commit(frames, position=at, sequence=1, synced_through=at, left_at=at, salt_crc=SALT_CRC)
    return b"".join(parts)


def _wal(data: bytes) -> None:
    disk = _on_disk(file_path(1), data.ljust(-(-len(data) // PAGE_BYTES) * PAGE_BYTES, b"\0"))
    WalScanner(disk, SALT_CRC, WalPosition(1, 0)).scan()


def _wal_commit(data: bytes) -> None:
    header = decode_header(memoryview(data), WalPosition(0, 0), SALT_CRC)
    if header is not None:
        check_commit(memoryview(data), header)


def _wal_seeds() -> list[bytes]:
    lives = [
        life_frame(WalKind.CREATE, REPLICA, encode_body(CreateBody(GROUP, b"conf"))),
        life_frame(WalKind.DELETE, REPLICA, b""),
    ]
    return [_commit([]), _commit([entry_frame(REPLICA, ENTRY)]), _commit([*lives, entry_frame(REPLICA, ENTRY)])]


def _flush_record(data: bytes) -> None:
    disk = _on_disk(FLUSH_COPIES[0], data)
    for copy in read_copies(disk, SALT_CRC):
        assert isinstance(copy, FlushRecord | LogBrokerError)


def _votes(data: bytes) -> None:
    disk = _on_disk(VOTE_COPIES[0], data)
    with disk.open(VOTE_COPIES[1], create=True) as file:
        file.pwrite([bytes(PAGE_BYTES)], 0)
    with suppress(DamageError):
        VoteStore.open(disk, SALT).close()


def _vote_seed() -> bytes:
    disk = SimulatedDisk()
    votes = VoteStore.open(disk, SALT)
    votes.add(REPLICA)
    votes.save({REPLICA: (Term(3), ReplicaId(8))})
    votes.close()
    return _content(disk, VOTE_COPIES[0])


def _identity(data: bytes) -> None:
    read_identity(_on_disk(NODE_FILE, data))


def _identity_seed() -> bytes:
    disk = SimulatedDisk()
    write_identity(disk, NodeIdentity(NodeId(3), LIFE, SALT))
    return _content(disk, NODE_FILE)


def _cluster_file(data: bytes) -> None:
    ClusterFile(_on_disk(CLUSTER_COPIES[0], data), LIFE).read()


def _cluster_file_seed() -> bytes:
    disk = SimulatedDisk()
    record = catalogue_kit.bootstrap(1, 2, 3)
    ClusterFile(disk, LIFE).write(ClusterState(Phase.FOUNDED, record.cluster_id, "test", record=record))
    return _content(disk, CLUSTER_COPIES[0])


def _container(data: bytes) -> None:
    path = checkpoint_path("groups", Index(5))
    read_checkpoint(_on_disk(path, data), path)


def _container_seed() -> bytes:
    disk = SimulatedDisk()
    disk.mkdir("groups")
    header = CheckpointHeader(
        group=GROUP,
        replica=REPLICA,
        index=Index(5),
        term=Term(1),
        log_start_offset=Offset(0),
        log_start_index=Index(0),
        next_offset=Offset(9),
        append_ms=1_000,
        conf=b"conf",
    )
    for _ in write_checkpoint(disk, "groups", header, [b"one", b"two"]):
        pass
    return _content(disk, checkpoint_path("groups", Index(5)))


def _segment(data: bytes) -> None:
    row = SegmentRow(Index(1), Index(3), Term(1), len(data))
    check = SegmentCheck(_on_disk(segment_path("groups", Index(1)), data), "groups", row, group=GROUP, replica=REPLICA)
    steps = 0
    while check.step():
        steps += 1
        assert steps <= len(data) + 10
    check.close()


def _segment_seed() -> bytes:
    entries = [
        seal_entry(
            EntryKind.DATA,
            group=GROUP,
            index=Index(index),
            term=Term(1),
            base_offset=Offset(index - 1),
            next_offset=Offset(index),
            append_ms=1_000,
            payload=b"p" * 40,
        )
        for index in (1, 2, 3)
    ]
    path = segment_path("groups", Index(1))
    header = encode_segment_header(GROUP, REPLICA, Index(1))
    disk = _on_disk(path, header)
    with disk.open(path) as file:
        write_entries(file, len(header), entries)
    return _content(disk, path)


# --- configuration ---


def _config(data: bytes) -> None:
    Settings(**tomllib.loads(data.decode()))


def _sections(encoded: object) -> bytes:
    return b"".join(encoded)  # type: ignore[arg-type]  # slices of a checkpoint


def _peer_seeds() -> list[bytes]:
    snapshot = SnapshotMeta(Index(5), Term(2), ConfState((ReplicaId(1), ReplicaId(2)), auto_leave=True))
    none = Index(0)
    messages = [
        Beat(1_700_000_000_000, True),
        RaftMessage(GROUP, Message(MessageKind.VOTE, ReplicaId(1), ReplicaId(2), Term(3), campaign_transfer=True)),
        RaftMessage(GROUP, Message(MessageKind.APPEND, ReplicaId(1), ReplicaId(2), Term(3), entries=(ENTRY, ENTRY))),
        RaftMessage(GROUP, Message(MessageKind.SNAPSHOT, ReplicaId(1), ReplicaId(2), Term(3), snapshot=snapshot)),
        SnapshotChunk(
            GROUP, ReplicaId(1), REPLICA, Term(2), 1, Index(5), Term(2), none, Term(0), 4, 9, 0, True, b"data"
        ),
        SnapshotAck(GROUP, ReplicaId(1), REPLICA, Index(5), Term(2), 4, False),
        EntryFetch(GROUP, ReplicaId(1), REPLICA, Index(5), Term(2)),
        EntryCopy(GROUP, ReplicaId(1), REPLICA, ENTRY),
        EntryGone(GROUP, ReplicaId(1), REPLICA, Index(5), Index(9)),
        Heartbeats(((GROUP, ReplicaId(1), REPLICA, Term(2), Index(5)),) * 3),
        HeartbeatAnswers(((GROUP, ReplicaId(1), REPLICA, Term(2)),) * 3),
        Transfer(GROUP, GroupId(8), 9 << 16, b"batch"),
        TransferAnswer(GROUP, GroupId(8), 9 << 16, MoveVerdict.TAKEN),
    ]
    return [encode_peer_message(message, TAG) for message in messages]  # type: ignore[arg-type]


def _packs() -> list[Heartbeats | HeartbeatAnswers]:
    return [
        Heartbeats(((GROUP, ReplicaId(1), REPLICA, Term(2), Index(5)),) * 3),
        HeartbeatAnswers(((GROUP, ReplicaId(1), REPLICA, Term(2)),) * 3),
    ]


def _known_packs() -> PackFrames:
    """What a node has that was told one pack of each kind, as a frame that repeats one needs it."""
    packs = PackFrames()
    for pack in _packs():
        packs.decode(NodeId(1), memoryview(encode_peer_message(pack, TAG)), TAG)
    return packs


def _pack_seeds() -> list[bytes]:
    """Each whole, and then as the last one again."""
    sender, packs = PackFrames(), _packs()
    return [sender.encode(NodeId(2), pack, TAG) for pack in packs + packs]


def _batches() -> list[bytes]:
    plain = [BatchRecord(b"value %d" % number) for number in range(5)]
    rich = [
        BatchRecord(b"v" * 900, b"key", (("name", b"x"), ("none", None)), 1_000),
        BatchRecord(None, None, (), 2_000),
    ]
    return [
        encode_batch(plain, codec=Codec.NONE),
        encode_batch(plain * 50, producer_id=5, producer_epoch=0, base_sequence=3),
        encode_batch(rich * 3),
        encode_batch(rich, codec=Codec.NONE),
    ]


def _of_clients() -> dict[str, Decoder]:
    messages = [bytes.fromhex(vector["frame"]) for vector in VECTORS]
    headers = [next(split_message(message, FrameLimits()))[0] for message in messages]
    texts = [
        json.dumps(
            found | ({"messages": ["x", {"value_base64": "/w=="}]} if found["kind"] == "produce" else {})
        ).encode()
        for found in GOLDEN.values()
    ]
    batch_errors = (CorruptBatchError, RequestTooLargeError)
    sealed = {"seeds": _batches(), "seal": lambda data: reseal(data) if len(data) > 21 else data}
    return {
        "wire frames": Decoder(lambda data: list(split_message(data, FrameLimits())), (RemoteProtocolError,), messages),
        "request header": Decoder(decode_request, (RemoteProtocolError,), headers),
        "reply header": Decoder(decode_reply, (RemoteProtocolError,), headers),
        "message to a server": Decoder(_message, (RemoteProtocolError,), messages),
        "websocket frames": Decoder(
            _websocket, (), [b"\x82\x85abcdhello", b"\x02\x83abcdhel\x89\x80abcd\x80\x82abcdlo", b"\x88\x80abcd"]
        ),
        "text of JSON to a server": Decoder(_text, (RemoteProtocolError,), texts),
        "websocket frames of text": Decoder(
            _text_frames, (), [b"\x81\x85\0\0\0\0hello", b"\x01\x83\0\0\0\0hel\x89\x80abcd\x80\x82\0\0\0\0lo"]
        ),
        "batch told in JSON": Decoder(_delivered, (), **sealed),  # type: ignore[arg-type]
        "batch as produced": Decoder(
            partial(check_batch, limits=LIMITS),
            (*batch_errors, InvalidArgumentError),
            **sealed,  # type: ignore[arg-type]
        ),
        "batch to open": Decoder(partial(read_batch, limits=LIMITS), batch_errors, **sealed),  # type: ignore[arg-type]
        "keys of a batch": Decoder(partial(batch_keys, limits=LIMITS), batch_errors, **sealed),  # type: ignore[arg-type]
        "batch header": Decoder(read_header, (CorruptBatchError,), _batches()),
        "grant": Decoder(
            lambda data: parse_grant(data.decode(errors="replace")),
            (InvalidArgumentError,),
            [b"orders-*:produce,consume"],
        ),
        "configuration": Decoder(
            _config,
            (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError),
            [b'[node]\nid = 3\ndata_dir = "/x"\n[limits]\nmax_queues = 7\n[cluster]\nname = "c"\n'],
        ),
    }


def _of_peers() -> dict[str, Decoder]:
    refused = (RemoteProtocolError,)
    initial = (InitialNodeRow(NodeId(1), "a:1"), InitialNodeRow(NodeId(2), "b:1"))
    hello = Hello(PROTOCOL_VERSION, LIFE, "name", NodeId(1), LIFE, NodeId(2), "a:1", initial)
    record = catalogue_kit.bootstrap(1, 2, 3)
    said: list[ClusterMessage] = [
        Standing(Phase.FOUNDED, LIFE),
        Record(record),
        Join(catalogue_kit.node(4), (ReplicaId(3),)),
        Report(encode_commands([DeleteQueue(QueueName("q"))])),
    ]
    return {
        "peer frames": Decoder(_splitter, refused, [frame(FrameKind.RAFT, b"12345") * 3]),
        "hello": Decoder(decode_hello, refused, [encode_opening(hello)[4:]]),
        "welcome": Decoder(decode_welcome, refused, [encode_opening(Welcome(1, "no", LIFE, NodeId(2), LIFE))[4:]]),
        "peer message": Decoder(lambda data: decode_peer_message(data, TAG), refused, _peer_seeds()),
        "pack frame": Decoder(
            lambda data: _known_packs().decode(NodeId(1), memoryview(data), TAG), refused, _pack_seeds()
        ),
        "cluster message": Decoder(decode_cluster_message, refused, [encode_cluster_message(one) for one in said]),
        "forwarded request": Decoder(
            decode_asked,
            refused,
            [
                encode_asked(1, GROUP, StateRequest()),
                encode_asked(2, GROUP, PauseRequest(DEFAULT_GROUP, "night", 9_000)),
            ],
        ),
        "forwarded answer": Decoder(
            decode_answered,
            refused,
            [encode_answered(1, GroupReply(DEFAULT_GROUP, Offset(0))), encode_answered(1, CorruptBatchError("x"))],
        ),
    }


def _of_logs() -> dict[str, Decoder]:
    corrupt = (CorruptBatchError,)
    changes: list[Change] = [
        CreateGroup(DEFAULT_GROUP, 3),
        Lease(DEFAULT_GROUP, ((1, 4),), 9, "c", 1, 2),
        Ack(DEFAULT_GROUP, 7, ((1, 3),)),
        Bury(DEFAULT_GROUP, 7, ((3, 4),), Cause.REJECTED, "no account"),
        BuryExpired(DEFAULT_GROUP, ((4, 6),), "c"),
        Revive(DEFAULT_GROUP, ((3, 4),)),
        BuryOld(DEFAULT_GROUP, 5),
        RewindFloor(4),
        Pause(DEFAULT_GROUP, "night", 9_000),
        Resume(DEFAULT_GROUP),
        Purge(DEFAULT_GROUP, 1 << 62, 9, "all"),
        Cancel(((4, 6),)),
        DeliverAt(900),
        MoveOut(DEFAULT_GROUP, ((6, 8),), 4),
        Moved(DEFAULT_GROUP, 4, 9, is_refused=True),
        MoveIn(5, 9, is_refused=False),
        ForgetSource(5),
        Dedupe(300_000, 1_000_000, bytes(32), bytes(16)),
    ]
    catalogue = catalogue_kit.cluster(1, 2, 3)
    catalogue_kit.create(catalogue, "orders", partitions=2)
    optional = CreateQueueWith(
        CreateQueue(QueueName("slow"), QueueSettings()), ((1, 5_000), (3, 4), (5, 60_000), (9, 0))
    )
    catalogue_kit.run(catalogue, optional)
    meta = CheckpointMeta(REPLICA, b"conf")
    proposal = ConfigProposal((ConfigChange(ChangeKind.ADD_VOTER, REPLICA),))
    return {
        "changes of a partition": Decoder(decode_changes, corrupt, [encode_changes(changes)]),
        "floor": Decoder(decode_floor, corrupt, [encode_floor(Floor(3, 5))]),
        "checkpoint of a partition": Decoder(
            partition_checkpoint.decode, corrupt, [_sections(partition_checkpoint.encode_slices(worked_on(), meta))]
        ),
        "commands of the catalogue": Decoder(
            decode_commands,
            corrupt,
            [encode_commands([catalogue_kit.bootstrap(1, 2, 3), optional, DeleteQueue(QueueName("q"))])],
        ),
        "checkpoint of the catalogue": Decoder(
            catalogue_checkpoint.decode, corrupt, [_sections(catalogue_checkpoint.encode_slices(catalogue, meta))]
        ),
        "configuration of a group": Decoder(ConfState.decode, corrupt, [ConfState((ReplicaId(1), REPLICA)).encode()]),
        "change of a configuration": Decoder(ConfigProposal.decode, corrupt, [proposal.encode()]),
    }


def _of_disks() -> dict[str, Decoder]:
    corrupt = (CorruptBatchError,)
    row = ReplicaRow(REPLICA, GROUP, "groups/1-7", 0, 0, b"conf", (SegmentEntry(Index(1), Index(9), Term(2), 500),))
    install = InstallBody(GROUP, "groups/1-7.5-2", 5, 2, 0, 0, (SegmentEntry(Index(1), Index(5), Term(2), 100),))
    entry = ENTRY.head + ENTRY.payload
    return {
        "entry head": Decoder(decode_head, corrupt, [entry], seal_entry_bytes),
        "entry": Decoder(decode_entry, corrupt, [entry], seal_entry_bytes),
        "WAL commit": Decoder(_wal_commit, (), _wal_seeds(), seal_commit),
        "WAL file": Decoder(_wal, (), _wal_seeds(), seal_commit),
        "CREATE frame": Decoder(decode_create, corrupt, [encode_body(CreateBody(GROUP, b"conf"))]),
        "INSTALL frame": Decoder(decode_install, corrupt, [encode_body(install)]),
        "segment": Decoder(_segment, (), [_segment_seed()]),
        "flush record": Decoder(
            _flush_record, (), [encode_record(FlushRecord(4, 2, (row,)), SALT_CRC)], seal_flush_record
        ),
        "checkpoint file": Decoder(_container, (DamageError,), [_container_seed()]),
        "votes": Decoder(_votes, (), [_vote_seed()], seal_vote),
        "node.json": Decoder(_identity, (ConfigurationError,), [_identity_seed()], seal_json),
        "cluster file": Decoder(_cluster_file, (ConfigurationError, DamageError), [_cluster_file_seed()], seal_json),
        "index row": Decoder(lambda data: decode_index_row(data[:16], data[16:]), (), [bytes(range(60))]),
    }


DECODERS: dict[str, Decoder] = _of_clients() | _of_peers() | _of_logs() | _of_disks()


def run(decoder: Decoder, data: bytes) -> bool:
    """Decode; False where it was refused by one of the errors that it may raise."""
    try:
        decoder.decode(data)
    except decoder.errors:
        return False
    return True


def msgpack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)
