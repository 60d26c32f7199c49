"""Messages from one partition to another on real engines: copies with their history, each once, whatever fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError, NotLeaderError, OverloadedError, QueueFullError, UnavailableError
from logbroker.ids import DEFAULT_GROUP, GroupId, NodeId, Offset, ReplicaId
from logbroker.node import moving
from logbroker.node.moving import NO_BATCH, QueuePlace, verdict_of, with_history
from logbroker.node.partition_service import PartitionService, PartitionSettings
from logbroker.node.peer_messages import Transfer, TransferAnswer
from logbroker.node.requests import (
    MoveFigures,
    MoveReply,
    MoveRequest,
    MoveVerdict,
    OffsetTarget,
    PeekReply,
    PeekRequest,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    SettleReply,
    StateReply,
    StateRequest,
    TransferReply,
    TransferRequest,
)
from logbroker.partition.failures import FailurePolicy
from logbroker.partition.limits import NO_LIMITS, SizeLimits
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.runs import RunState
from logbroker.raft.messages import ConfState
from logbroker.record.batch import BatchLimits, Record, decode_batch, encode_batch
from logbroker.record.checksum import crc32c
from logbroker.record.records import with_history_room
from tests.unit.node.engine_kit import GROUP, Asked, KitCluster, batch

if TYPE_CHECKING:
    import pytest

    from logbroker.node.peer_messages import PeerMessage
    from logbroker.node.requests import Request

D = DEFAULT_GROUP
LETTERS = GroupId(2)
PLACE = QueuePlace("orders", 3)


class Pair(KitCluster):
    """A partition and the one of its dead letters, each with a replica on every node."""

    def __init__(
        self,
        size: int = 1,
        *,
        dead_letters: bool = True,
        limits: BatchLimits | None = None,
        bounds: SizeLimits = NO_LIMITS,
    ) -> None:
        settings = PartitionSettings(
            place=PLACE,
            dead_letters=LETTERS if dead_letters else None,
            failures=FailurePolicy(max_deliveries=2),
            limits=bounds,
        )
        super().__init__(size, settings=settings, limits=limits)
        conf = ConfState(tuple(ReplicaId(10 + number) for number in range(1, size + 1)))
        for number, node in self.nodes.items():
            for other in range(1, size + 1):
                node.engine.set_route(ReplicaId(10 + other), NodeId(other))
            node.engine.create_replica(LETTERS, ReplicaId(10 + number), conf)
        self.elect()
        while self.letters_leader() is None:
            self.tick()

    def letters_leader(self) -> int | None:
        return next(
            (
                number
                for number, node in self.nodes.items()
                if number not in self.stopped and node.engine.replicas[LETTERS].is_serving
            ),
            None,
        )

    def ask_letters(self, request: Request) -> object:
        asked = Asked()
        number = self.letters_leader()
        assert number is not None
        self.nodes[number].engine.submit(LETTERS, request, asked.answers.append)
        self.settle()
        return asked.answer

    def letters(self) -> list[Record]:
        """All messages of the second partition, in order."""
        reply = self.ask_letters(PeekRequest(D, OffsetTarget(Offset(0)), 1_000, with_settled=True))
        assert isinstance(reply, PeekReply)
        limits = with_history_room(self.limits)
        return [record for part in reply.parts for record in decode_batch(part.batch, limits)]

    def letters_machine(self) -> PartitionMachine:
        number = self.letters_leader()
        assert number is not None
        machine = self.nodes[number].engine.replicas[LETTERS].machine
        assert isinstance(machine, PartitionMachine)
        return machine

    def kill(self, count: int, *, reason: str = "no account") -> None:
        """Receive and reject the next messages."""
        reply = self.ask(ReceiveRequest(D, count, 5_000, consumer="till"))
        assert isinstance(reply, ReceiveReply)
        ranges = tuple((start, end) for part in reply.parts for start, end, _ in part.ranges)
        assert isinstance(self.ask(RejectRequest(D, ((reply.lease, ranges),), reason)), SettleReply)

    def states(self) -> str:
        table = self.leader.machine.group(D).table
        runs = table.overlap(0, self.leader.machine.next_offset)
        return " ".join(f"{run.start}-{run.end} {run.state.name.lower()}" for run in runs)


def headers(record: Record) -> dict[str, str]:
    return {key: (value or b"").decode() for key, value in record.headers}


def test_the_dead_arrive_once_with_their_history_and_what_they_had() -> None:
    pair = Pair(3)
    reply = pair.ask(ProduceRequest(encode_batch([Record(b"a", b"key", (("trace", b"t1"),), 77), Record(b"b")])))
    assert isinstance(reply, ProduceReply)
    pair.kill(1)
    pair.tick(2)
    (record,) = pair.letters()
    assert (record.value, record.key, record.timestamp_ms) == (b"a", b"key", 77)
    assert headers(record) == {
        "trace": "t1",
        "logbroker-origin-queue": "orders",
        "logbroker-origin-id": "orders/3/0",
        "logbroker-origin-ms": str(reply.append_ms),
        "logbroker-group": "default",
        "logbroker-attempts": "1",
        "logbroker-cause": "rejected",
        "logbroker-reason": "no account",
        "logbroker-consumer": "till",
    }
    assert pair.states() == "0-1 moved 1-2 available"
    pair.tick(30)
    assert len(pair.letters()) == 1
    assert not list(pair.leader.machine.outbox.rows())


def test_what_ran_out_for_the_last_time_goes_too() -> None:
    pair = Pair()
    pair.produce(b"a")
    for _ in range(2):
        pair.receive(1, hide_ms=1_000)
        pair.tick(13)
    pair.tick(5)
    assert headers(pair.letters()[0])["logbroker-cause"] == "max_deliveries"
    assert headers(pair.letters()[0])["logbroker-attempts"] == "2"


def test_a_message_that_is_moved_again_keeps_its_origin_and_has_its_last_end() -> None:
    first = with_history(
        Record(b"v", None, (("a", b"1"),)), {moving.ORIGIN_ID: "q/0/1"}, {moving.REASON: "one", moving.CAUSE: "x"}
    )
    second = with_history(first, {moving.ORIGIN_ID: "dead/0/9"}, {moving.REASON: "two"})
    assert headers(second) == {"a": "1", moving.ORIGIN_ID: "q/0/1", moving.REASON: "two", moving.CAUSE: "x"}
    assert with_history(second, {moving.ORIGIN_ID: "dead/0/9"}, {}) == second, "not dead: nothing new to tell"


def test_a_move_that_is_asked_for_takes_what_is_available_and_answers_how_much() -> None:
    pair = Pair(dead_letters=False)
    pair.produce(b"a", b"b", b"c", b"d")
    pair.kill(1)
    pair.receive(1)
    request = MoveRequest(D, ((0, 4),), LETTERS)
    assert pair.ask(request) == MoveReply(3)
    assert pair.ask(request) == MoveReply(0)
    assert [record.value for record in pair.letters()] == [b"a", b"c", b"d"]
    assert "logbroker-cause" not in headers(pair.letters()[1])
    assert pair.states() == "0-1 moved 1-2 leased 2-4 moved"
    assert isinstance(pair.ask(MoveRequest(D, ((0, 1),), GROUP)), InvalidArgumentError)


def test_more_than_fits_one_copy_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "MAX_MOVED_COUNT", 3)
    pair = Pair()
    for number in range(8):
        pair.produce(b"%d" % number)
    pair.kill(8)
    pair.tick(8)
    assert [record.value for record in pair.letters()] == [b"%d" % number for number in range(8)]


def test_messages_that_inflate_beyond_a_batch_go_in_halves() -> None:
    limits = BatchLimits(max_batch_bytes=8_000, max_record_bytes=4_000, max_uncompressed_bytes=8_000)
    pair = Pair(limits=limits)
    for number in range(6):
        # Stored in some hundred bytes each.
        reply = pair.ask(ProduceRequest(encode_batch([Record(b"%d" % number + bytes(3_000))])))
        assert isinstance(reply, ProduceReply)
    pair.kill(6)
    pair.tick(20)
    values = [record.value or b"" for record in pair.letters()]
    assert [value[:1] for value in values] == [b"%d" % number for number in range(6)]
    assert pair.states() == "0-6 moved"


def test_a_message_of_the_largest_size_goes() -> None:
    limits = BatchLimits(max_batch_bytes=6_000, max_record_bytes=5_900, max_uncompressed_bytes=6_000)
    pair = Pair(limits=limits)
    pair.produce(b"a" + pair.random.randbytes(5_890))
    pair.kill(1, reason="r" * 200)
    pair.tick(3)
    assert len(pair.letters()[0].value or b"") == 5_891


def test_a_long_reason_is_cut_at_its_bound() -> None:
    pair = Pair()
    pair.produce(b"a")
    pair.kill(1, reason="é€😀" * 80)
    pair.tick(3)
    assert headers(pair.letters()[0])["logbroker-reason"] == ("é€😀" * 57)[:-1]


def unreadable(value: bytes) -> bytes:
    """A batch whose outside is right and whose record is none."""
    encoded = bytearray(batch(value))
    encoded[61] ^= 0x7F
    encoded[17:21] = crc32c(bytes(encoded[21:])).to_bytes(4, "big")
    return bytes(encoded)


def test_what_cannot_be_read_stays_dead_and_holds_up_no_other() -> None:
    pair = Pair()
    pair.produce(b"a")
    assert isinstance(pair.ask(ProduceRequest(unreadable(b"lie"))), ProduceReply)
    pair.produce(b"b")
    pair.kill(3)
    pair.tick(10)
    assert pair.states() == "0-1 moved 1-2 dead 2-3 moved"
    assert [record.value for record in pair.letters()] == [b"a", b"b"]
    assert pair.ask(MoveRequest(D, ((1, 2),), LETTERS)) == MoveReply(0)
    (row,) = pair.letters_machine().inbox.rows()
    assert not row.is_refused, "the number that was given up was followed by one that was taken"


def test_silence_is_answered_by_sending_again_and_the_target_knows_it() -> None:
    pair = Pair(3)
    sent: list[int] = []

    def loses_answers(sender: NodeId, to: NodeId, message: PeerMessage) -> bool:
        if isinstance(message, Transfer):
            sent.append(message.number)
        return not isinstance(message, TransferAnswer) or len(sent) > 2

    pair.is_passed = loses_answers
    # So that what is sent goes over a link.
    if pair.letters_leader() == pair.leader.number:
        pair.leader.engine.replicas[LETTERS].transfer_leadership(ReplicaId(11 + pair.leader.number % 3))
        pair.tick(30)
    assert pair.letters_leader() != pair.leader.number
    pair.produce(b"a")
    pair.kill(1)
    pair.tick(40)
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert len(pair.letters()) == 1
    assert pair.states() == "0-1 moved"


def test_the_next_leader_goes_on_with_what_is_owed() -> None:
    pair = Pair(3)
    pair.is_passed = lambda sender, to, message: not isinstance(message, Transfer)
    for node in pair.nodes.values():
        node.engine.send_transfer = lambda *_: None  # type: ignore[method-assign]  # it says nothing
    pair.produce(b"a", b"b")
    pair.kill(2)
    pair.tick(2)
    assert pair.states() == "0-2 moving"
    old = pair.leader.number
    pair.stop(old)
    for node in pair.nodes.values():
        del node.engine.send_transfer
    pair.is_passed = lambda sender, to, message: True
    pair.tick(60)
    assert pair.leader.number != old
    assert pair.states() == "0-2 moved"
    assert len(pair.letters()) == 2


def test_what_was_taken_is_not_given_back_by_a_leader_that_cannot_copy_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier leader sent it, and the target took it: that it cannot be read here is no reason to keep it."""
    pair = Pair()
    pair.produce(b"a")
    on_transferred = PartitionService.on_transferred
    monkeypatch.setattr(PartitionService, "on_transferred", lambda *_: None)
    pair.kill(1)
    pair.tick(2)
    assert len(pair.letters()) == 1
    monkeypatch.setattr(PartitionService, "on_transferred", on_transferred)
    monkeypatch.setattr(moving.Moves, "_copied", lambda *_: NO_BATCH)
    pair.tick(15)
    assert pair.states() == "0-1 moved"


def test_what_is_given_up_cannot_arrive_late(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.produce(b"a")
    late: list[tuple[int, bytes]] = []
    copied = moving.Moves._copied

    def hesitant(self: moving.Moves, applied: PartitionMachine, row: object, place: QueuePlace) -> bytes:
        late.append((row.number, copied(self, applied, row, place)))  # type: ignore[attr-defined, arg-type]
        return NO_BATCH

    monkeypatch.setattr(moving.Moves, "_copied", hesitant)
    pair.kill(1)
    pair.tick(3)
    assert pair.states() == "0-1 dead"
    number, copy = late[0]
    assert pair.ask_letters(TransferRequest(GROUP, number, copy)) == TransferReply(is_taken=False)
    assert pair.letters() == []


def test_a_node_without_a_replica_of_the_target_finds_its_leader() -> None:
    pair = Pair(3)
    source = pair.leader
    pair.produce(b"a", b"b")
    source.engine.remove_replica(ReplicaId(10 + source.number))
    others = [node for node in pair.nodes.values() if node is not source]
    while not any(node.engine.replicas[LETTERS].is_serving for node in others):
        pair.tick()
    assert pair.leader is source
    source.engine.homes = lambda group: [node.number for node in others] if group == LETTERS else []
    for _ in range(2):
        pair.kill(1)
        pair.tick(25)
    assert pair.states() == "0-2 moved"
    # The second row went where the first was taken.
    assert {node.engine.replicas[LETTERS].machine.next_offset for node in others} == {2}


def test_each_source_tries_the_next_home_when_its_number_was_not_taken() -> None:
    engine = KitCluster(3).nodes[1].engine
    engine.homes = lambda _: [NodeId(2), NodeId(3)]

    def sent_to(source: int, number: int) -> list[NodeId]:
        engine.send_transfer(GroupId(77), GroupId(source), number, NO_BATCH)
        return list(engine.take_peer_messages())

    assert [sent_to(*each) for each in ((5, 1), (6, 9), (5, 1), (6, 10))] == [[2], [2], [3], [2]]
    assert [sent_to(*each) for each in ((5, 2), (5, 2), (6, 10))] == [[3], [2], [3]]
    engine.homes = lambda _: []
    assert sent_to(5, 2) == []


def test_a_target_that_is_gone_gives_the_dead_back() -> None:
    pair = Pair(dead_letters=False)
    pair.nodes[1].engine.is_deleted = lambda group: group == 77
    pair.produce(b"a", b"b")
    assert pair.ask(MoveRequest(D, ((0, 2),), GroupId(77))) == MoveReply(2)
    pair.tick(2)
    assert pair.states() == "0-2 available"
    assert not len(pair.leader.machine.outbox)


def test_a_full_dead_letter_queue_takes_what_dies_and_what_has_moved_makes_room() -> None:
    pair = Pair(bounds=SizeLimits(max_messages=2))
    for words in ((b"a", b"b"), (b"c", b"d")):
        pair.produce(*words)
        pair.kill(2)
        pair.tick(2)
    assert [record.value for record in pair.letters()] == [b"a", b"b", b"c", b"d"]
    assert isinstance(pair.ask_letters(ProduceRequest(batch(b"e"))), QueueFullError)


def test_messages_of_a_source_that_is_gone_are_not_taken_and_it_is_forgotten() -> None:
    pair = Pair()
    assert pair.ask_letters(TransferRequest(GroupId(5), 7, batch(b"a"))) == TransferReply(is_taken=True)
    pair.nodes[1].engine.is_deleted = lambda group: group == 5
    answer = pair.ask_letters(TransferRequest(GroupId(5), 8, batch(b"b")))
    assert verdict_of(answer) is MoveVerdict.LATER  # type: ignore[arg-type]  # of a submitted request
    pair.tick(2)
    assert [row.source for row in pair.letters_machine().inbox.rows()] == [5], "other nodes may not know it yet"
    pair.tick(620)
    assert pair.letters_machine().inbox.rows() == []


def test_a_batch_that_no_log_may_hold_is_refused_for_good() -> None:
    pair = Pair(limits=BatchLimits(max_batch_bytes=500, max_record_bytes=400, max_uncompressed_bytes=500))
    large = batch(b"x" * 9_000)
    assert pair.ask_letters(TransferRequest(GroupId(5), 7, large)) == TransferReply(is_taken=False)
    assert pair.ask_letters(TransferRequest(GroupId(5), 7, batch(b"x"))) == TransferReply(is_taken=False)
    damaged = bytearray(batch(b"abcdef"))
    damaged[-2] ^= 1
    assert isinstance(pair.ask_letters(TransferRequest(GroupId(5), 8, bytes(damaged))), UnavailableError)
    assert pair.ask_letters(TransferRequest(GroupId(5), 8, batch(b"x"))) == TransferReply(is_taken=True)


def test_a_refusal_that_is_not_in_the_targets_log_is_none() -> None:
    assert verdict_of(TransferReply(is_taken=True)) is MoveVerdict.TAKEN
    assert verdict_of(TransferReply(is_taken=False)) is MoveVerdict.REFUSED
    for error in (InvalidArgumentError("x"), NotLeaderError("x"), OverloadedError("x")):
        assert verdict_of(error) is MoveVerdict.LATER


def test_a_node_that_does_not_lead_the_target_says_later() -> None:
    pair = Pair(3)
    leader = pair.letters_leader()
    follower = next(node for number, node in pair.nodes.items() if number != leader)
    asker = next(number for number in pair.nodes if number != follower.number)
    follower.engine.deliver(NodeId(asker), Transfer(GROUP, LETTERS, 7, batch(b"a")))
    answers = [one for one in follower.engine.take_peer_messages()[NodeId(asker)] if isinstance(one, TransferAnswer)]
    assert answers == [TransferAnswer(GROUP, LETTERS, 7, MoveVerdict.LATER)]


def test_answers_that_nobody_waits_for_change_nothing() -> None:
    pair = Pair(dead_letters=False)
    pair.produce(b"a")
    before = pair.leader.replica.core.last_index
    for verdict in MoveVerdict:
        pair.leader.engine.deliver(NodeId(1), TransferAnswer(GROUP, LETTERS, 7, verdict))
        pair.leader.engine.deliver(NodeId(1), TransferAnswer(GroupId(99), LETTERS, 7, verdict))
    pair.settle()
    assert pair.leader.replica.core.last_index == before


def test_what_is_moved_is_no_longer_shown_among_what_is_to_come() -> None:
    pair = Pair(dead_letters=False)
    pair.produce(b"a", b"b")
    pair.ask(MoveRequest(D, ((0, 1),), LETTERS))
    for with_settled, expected in [(False, [RunState.AVAILABLE]), (True, [RunState.MOVED, RunState.AVAILABLE])]:
        reply = pair.ask(PeekRequest(D, OffsetTarget(Offset(0)), 10, with_settled=with_settled))
        assert isinstance(reply, PeekReply)
        assert [shown.state for shown in reply.ranges] == expected


def test_what_waits_and_what_was_moved_is_counted_where_the_leader_is() -> None:
    pair = Pair()
    pair.produce(b"a", b"b", b"c")
    engine = pair.leader.engine
    engine.send_transfer = lambda *_: None  # type: ignore[method-assign]  # it says nothing
    pair.kill(2)
    pair.tick(31)
    reply = pair.ask(StateRequest())
    assert isinstance(reply, StateReply)
    assert (reply.moves.waiting, reply.moves.moved_out, reply.moves.moved_in) == (2, 0, 0)
    assert 2_800 <= reply.moves.oldest_waiting_ms <= 3_100
    del engine.send_transfer
    pair.tick(12)
    out, came = pair.ask(StateRequest()), pair.ask_letters(StateRequest())
    assert isinstance(out, StateReply)
    assert isinstance(came, StateReply)
    assert out.moves == MoveFigures(moved_out=2)
    assert came.moves == MoveFigures(moved_in=2)
    assert (out.groups[0].dead, out.groups[0].moved) == (0, 2)
