"""Ids of messages: what is known for how long, what a batch with known ids comes to, and what a retry is told."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from logbroker.entry import EntryKind
from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupName, Offset, ReplicaId, Term
from logbroker.partition import decide
from logbroker.partition.checkpoint import CheckpointMeta, decode, encode_slices
from logbroker.partition.commands import Cancel, Change, CreateGroup, Dedupe, DeliverAt, decode_changes, encode_changes
from logbroker.partition.dedupe import ROW_BYTES, DedupeWindow, Verdicts
from logbroker.partition.outcomes import Misfit, Produced, Void
from logbroker.record.batch import read_header
from logbroker.record.dedup_ids import NO_ID, id_hash
from tests.unit.partition.build import batch, change, entry, move_floor, refusal, states, with_messages

if TYPE_CHECKING:
    from logbroker.partition.machine import PartitionMachine

WINDOW_MS = 1_000


def ids(*words: str, window_ms: int = WINDOW_MS, max_count: int = 100) -> Dedupe:
    """Each word is an id, a colon, a body; `-` is a record without an id."""
    hashes, bodies = b"", b""
    for word in words:
        name, _, body = word.partition(":")
        hashes += NO_ID if word == "-" else id_hash(name.encode())
        bodies += body.encode().ljust(8, b"\0")
    return Dedupe(window_ms, max_count, hashes, bodies)


def send(
    machine: PartitionMachine,
    sent: Dedupe,
    *,
    at_ms: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
    beside: tuple[Change, ...] = (),
) -> Produced | Void:
    change(machine, *beside, sent, append_ms=at_ms)
    payload = batch(sent.count, producer=producer, base_offset=machine.next_offset)
    made = machine.apply(entry(machine, EntryKind.DATA, payload, count=sent.count, append_ms=at_ms))
    (outcome,) = made.outcomes
    assert isinstance(outcome, (Produced, Void))
    return outcome


def decided(
    machine: PartitionMachine, sent: Dedupe, *, at_ms: int = 0, producer: tuple[int, int, int] = (-1, -1, -1)
) -> decide.Decision:
    header = read_header(batch(sent.count, producer=producer))
    return decide.decide_produce(machine, header, ids=sent, now_ms=at_ms)


def restored(machine: PartitionMachine) -> PartitionMachine:
    again, _ = decode(b"".join(encode_slices(machine, CheckpointMeta(ReplicaId(1), b""))))
    assert again.digest() == machine.digest()
    return again


def test_a_known_id_with_the_same_body_is_a_duplicate_of_the_first() -> None:
    machine = with_messages(3)
    assert send(machine, ids("a:1", "-", "b:1")) == Produced(Offset(3), 3)
    assert send(machine, ids("c:1", "b:1", "-", "a:1")) == Produced(Offset(6), 4, duplicates=((1, 5), (3, 3)))
    assert states(machine) == "-------.-."
    assert list(machine.voids) == [(7, 8), (9, 10)]


def test_a_known_id_with_another_body_is_a_conflict_and_does_not_take_its_place() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    assert send(machine, ids("a:2", "a:1")) == Produced(Offset(1), 2, duplicates=((1, 0),), conflicts=(0,))
    assert states(machine) == "-.."


def test_of_one_id_twice_in_a_batch_the_first_wins() -> None:
    machine = with_messages(0)
    assert send(machine, ids("a:1", "a:1", "a:2")) == Produced(Offset(0), 3, duplicates=((1, 0),), conflicts=(2,))
    assert states(machine) == "-.."


@pytest.mark.parametrize("at_ms", [0, WINDOW_MS - 1])
def test_an_id_is_known_to_the_last_millisecond_of_its_window(at_ms: int) -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"), at_ms=500)
    assert send(machine, ids("a:1"), at_ms=500 + at_ms) == Produced(Offset(1), 1, duplicates=((0, 0),))


def test_an_id_is_new_again_once_its_window_has_passed() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"), at_ms=500)
    send(machine, ids("a:1"), at_ms=900)
    # The duplicate did not lengthen it.
    assert send(machine, ids("a:2"), at_ms=1500) == Produced(Offset(2), 1)
    assert send(machine, ids("a:1"), at_ms=2499) == Produced(Offset(3), 1, conflicts=(0,))
    assert states(machine) == "-.-."


def test_an_id_is_known_while_so_many_are_not_newer() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1", "b:1", "c:1", max_count=3))
    assert send(machine, ids("a:1", max_count=3)) == Produced(Offset(3), 1, duplicates=((0, 0),))
    send(machine, ids("d:1", max_count=3))
    assert send(machine, ids("b:1", "a:1", max_count=3)) == Produced(Offset(5), 2, duplicates=((0, 1),))
    assert len(machine.dedupe) == 3


def test_a_smaller_count_holds_at_once() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1", "b:1", "c:1"))
    assert send(machine, ids("b:1", "c:1", max_count=1)) == Produced(Offset(3), 2)
    assert len(machine.dedupe) == 1


def test_a_delayed_batch_sent_again_is_told_when_the_rest_of_it_is_due() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    sent = ids("a:1", "b:1")
    producer = (4, 0, 0)
    first = send(machine, sent, producer=producer, beside=(DeliverAt(500),))
    assert first == Produced(Offset(1), 2, due_ms=500, duplicates=((0, 0),))
    again = decided(machine, sent, producer=producer)
    assert isinstance(again, decide.Answer)
    assert again.outcome == Produced(Offset(1), 2, duplicate=True, due_ms=500, duplicates=((0, 0),))


def test_a_batch_that_does_not_fit_remembers_and_forgets_nothing() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    before = len(machine.dedupe)
    void = send(machine, ids("b:1"), at_ms=5_000, producer=(4, 0, 7))
    assert isinstance(void, Void)
    assert len(machine.dedupe) == before
    assert send(machine, ids("b:1"), at_ms=5_000) == Produced(Offset(2), 1)


def test_ids_of_more_records_than_the_batch_has_make_it_void() -> None:
    machine = with_messages(0)
    change(machine, ids("a:1", "b:1"))
    made = machine.apply(entry(machine, EntryKind.DATA, batch(1), count=1))
    assert isinstance(made.outcomes[0], Void)
    assert made.outcomes[0].why is Misfit.UNREADABLE
    assert len(machine.dedupe) == 0


def test_ids_are_those_of_the_next_batch_of_the_same_term_alone() -> None:
    machine = with_messages(0)
    change(machine, ids("a:1"))
    other = entry(machine, EntryKind.DATA, batch(1), count=1)
    machine.apply(replace(other, term=Term(3)))
    assert len(machine.dedupe) == 0


def test_a_duplicate_in_a_delayed_batch_is_not_delivered_when_it_is_due() -> None:
    machine = with_messages(0)
    send(machine, ids("b:1"))
    outcome = send(machine, ids("a:1", "b:1", "c:1"), beside=(DeliverAt(500),))
    assert outcome == Produced(Offset(1), 3, due_ms=500, duplicates=((1, 0),))
    assert states(machine) == "-D.D"
    assert [(run.start, run.end) for run in machine.schedule.runs()] == [(1, 2), (3, 4)]


def test_a_group_made_later_does_not_get_a_duplicate_either() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    send(machine, ids("a:1", "b:1"))
    change(machine, CreateGroup(GroupName("late"), 0))
    assert states(machine, machine.groups[1]) == "-.-"


def test_retention_leaves_the_window_alone() -> None:
    machine = with_messages(2)
    send(machine, ids("a:1"))
    move_floor(machine, 3)
    assert send(machine, ids("a:1", "b:1")) == Produced(Offset(3), 2, duplicates=((0, 2),))


# What the leader decides.


def test_a_batch_of_known_ids_alone_appends_nothing() -> None:
    machine = with_messages(1)
    send(machine, ids("a:1", "b:1"))
    decision = decided(machine, ids("b:1", "a:2"))
    assert decision == decide.Answer(Produced(Offset(2), 2, True, 0, ((0, 2),), (1,)), machine.applied_index)


def test_conflicts_alone_append_nothing() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    assert decided(machine, ids("a:2")) == decide.Answer(
        Produced(Offset(1), 1, True, 0, (), (0,)), machine.applied_index
    )


def test_a_batch_with_a_sequence_is_appended_all_the_same_because_the_next_one_follows_it() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"), producer=(1, 0, 0))
    assert isinstance(decided(machine, ids("a:1"), producer=(2, 0, 0)), decide.ProposeBatch)
    assert send(machine, ids("a:1"), producer=(2, 0, 0)) == Produced(Offset(1), 1, duplicates=((0, 0),))
    assert isinstance(decided(machine, ids("b:1"), producer=(2, 0, 1)), decide.ProposeBatch)


@pytest.mark.parametrize("at_ms", [999, 1000])
def test_the_leader_sees_the_edge_of_the_window_where_apply_does(at_ms: int) -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    assert isinstance(decided(machine, ids("a:1"), at_ms=at_ms), decide.Answer) is (at_ms < WINDOW_MS)


def test_a_retry_is_told_which_messages_were_duplicates() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1", "b:1"), producer=(1, 0, 0))
    sent = ids("-", "a:1", "c:1", "b:2", "c:1")
    first = send(machine, sent, producer=(2, 0, 0))
    assert first == Produced(Offset(2), 5, duplicates=((1, 0), (4, 4)), conflicts=(3,))
    assert isinstance(first, Produced)
    again = decided(machine, sent, producer=(2, 0, 0))
    repeated = Produced(Offset(2), 5, True, 0, first.duplicates, first.conflicts)
    assert again == decide.Answer(repeated, machine.applied_index)


def test_a_retry_after_the_window_takes_no_undelivered_message_for_sent() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    sent = ids("a:2", "b:1")
    send(machine, sent, producer=(2, 0, 0))
    send(machine, ids("z:1"), at_ms=5_000)
    again = decided(machine, sent, at_ms=5_000, producer=(2, 0, 0))
    assert again == decide.Answer(Produced(Offset(1), 2, True, 0, (), (0,)), machine.applied_index)


def test_a_retry_of_a_cancelled_message_is_told_its_own_place() -> None:
    machine = with_messages(0)
    sent = ids("a:1")
    send(machine, sent, producer=(2, 0, 0), beside=(DeliverAt(500),))
    change(machine, Cancel(((0, 1),)))
    again = decided(machine, sent, producer=(2, 0, 0))
    assert again == decide.Answer(Produced(Offset(0), 1, True), machine.applied_index)


def test_ranges_of_repeated_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "MAX_RUNS_PER_DEDUPE", 3)
    machine = with_messages(0)
    send(machine, ids("a:1"))
    sent = ids("a:1", "b:1", "a:1", "c:1", "c:1")
    assert isinstance(decided(machine, sent), decide.ProposeBatch)
    change(machine, CreateGroup(GroupName("late"), 0))
    assert refusal(decided(machine, sent)) == (
        "too_large: a batch has 3 ranges of messages whose ids are known, for 2 consumer groups; the most is 3 together"
    )


def test_void_ranges_are_bounded() -> None:
    machine = with_messages(0)
    send(machine, ids("a:1"))
    header = read_header(batch(2))
    decision = decide.decide_produce(machine, header, ids=ids("a:1", "b:1"), max_void_ranges=0)
    assert refusal(decision).startswith("overloaded: partition group 7 has 0 ranges of messages that nothing delivers")


# The state.


def test_a_checkpoint_keeps_what_is_known() -> None:
    machine = with_messages(0)
    send(machine, ids(*[f"{n}:1" for n in range(200)], max_count=150))
    again = restored(machine)
    for copy in (machine, again):
        outcome = send(copy, ids("49:1", "50:1", "199:2", max_count=150), at_ms=7)
        assert outcome == Produced(Offset(200), 3, conflicts=(2,))
    assert again.digest() == machine.digest()


def test_a_checkpoint_between_the_ids_and_their_batch_keeps_them() -> None:
    machine = with_messages(0)
    change(machine, ids("a:1"))
    again = restored(machine)
    for copy in (machine, again):
        copy.apply(entry(copy, EntryKind.DATA, batch(1), count=1))
    assert again.digest() == machine.digest()
    assert len(again.dedupe) == 1


def test_a_state_that_has_forgotten_all_ids_is_as_if_it_had_known_none() -> None:
    machine, plain = with_messages(0), with_messages(0)
    send(machine, ids("a:1"))
    send(plain, ids("-"))
    digests = set()
    for one in (machine, plain):
        send(one, ids("-"), at_ms=WINDOW_MS)
        digests.add(one.digest())
    assert len(digests) == 1


def row(offset: int, ms: int, name: str = "a") -> bytes:
    return id_hash(name.encode()) + bytes(8) + offset.to_bytes(8, "big") + ms.to_bytes(8, "big")


@pytest.mark.parametrize(
    "pieces",
    [
        [row(0, 0)[:-1]],
        [row(5, 0)],
        [row(0, 11)],
        [row(1, 0), row(0, 0, "b")],
        [row(0, 5), row(1, 4, "b")],
        [row(0, 0), row(1, 0)],
        [bytes(ROW_BYTES)],
    ],
)
def test_rows_that_no_window_holds_are_corrupt(pieces: list[bytes]) -> None:
    with pytest.raises(CorruptBatchError):
        DedupeWindow.decode(pieces, append_ms=10, next_offset=5)


@pytest.mark.parametrize(
    "bad", [Dedupe(1, 1, b"", b""), Dedupe(1, 1, bytes(17), bytes(8)), Dedupe(1, 1, bytes(16), bytes(16))]
)
def test_hashes_that_do_not_match_are_corrupt(bad: Dedupe) -> None:
    with pytest.raises(CorruptBatchError, match="bytes of hashes of ids"):
        decode_changes(encode_changes([bad]))


@pytest.mark.parametrize("bad", [Dedupe(0, 1, bytes(16), bytes(8)), Dedupe(1, 0, bytes(16), bytes(8))])
def test_a_window_of_nothing_is_corrupt(bad: Dedupe) -> None:
    with pytest.raises(CorruptBatchError):
        decode_changes(encode_changes([bad]))


@pytest.mark.parametrize(
    "windows",
    [
        [(150, 300), (150, 300), (150, 100), (60, 300)],
        # Of one batch the ids push each other out.
        [(150, 3), (150, 1), (60, 5)],
    ],
)
def test_the_window_does_what_a_plain_list_does(windows: list[tuple[int, int]]) -> None:
    chance = random.Random(1)
    window, plain = DedupeWindow(), list[tuple[str, str, int, int]]()
    now = offset = 0
    for step in range(1_500):
        now += chance.choice([0, 1, 3, 3, 3, 200])
        window_ms, max_count = chance.choice(windows)
        names = 400 if windows[0][1] > 100 else 12
        words = [f"{chance.randrange(names)}:{chance.randrange(8) // 7}" for _ in range(chance.randrange(1, 9))]
        sent = ids(*words, window_ms=window_ms, max_count=max_count)
        plain = [known for known in plain if now - known[3] < window_ms][-max_count:]
        duplicates, conflicts = [], []
        foreseen = window.look(sent, offset, now)
        for position, word in enumerate(words):
            name, body = word.split(":")
            first = next((known for known in plain if known[0] == name), None)
            if first is None:
                plain = [*plain, (name, body, offset + position, now)][-max_count:]
            elif first[1] == body:
                duplicates.append((position, first[2]))
            else:
                conflicts.append(position)
        before = window.clone()
        verdicts = window.take(sent, offset, now)
        assert verdicts == foreseen == before.take(sent, offset, now) == Verdicts(tuple(duplicates), tuple(conflicts))
        assert list(window.packed(3)) == list(before.packed(3))
        offset += len(words)
        assert [row.offset for row in window.rows()] == [known[2] for known in plain]
        if step % 100 == 0:
            window = DedupeWindow.decode(list(window.packed(5)), append_ms=now, next_offset=offset)


@pytest.mark.parametrize(("max_count", "repeated"), [(1, ((3, 12),)), (2, ((3, 12),)), (3, ((1, 5), (3, 12)))])
def test_what_a_batch_itself_pushes_out_is_foreseen(max_count: int, repeated: tuple[tuple[int, int], ...]) -> None:
    window = DedupeWindow()
    window.take(ids("a:1", "x:1"), 5, 0)
    sent = ids("b:1", "a:1", "c:1", "c:1", max_count=max_count)
    foreseen = window.look(sent, 10, 0)
    assert window.take(sent, 10, 0) == foreseen == Verdicts(repeated)


def test_what_was_forgotten_leaves_the_memory_as_new_ids_come() -> None:
    window = DedupeWindow()
    for n in range(1_000):
        window.take(ids(f"{n}:1", max_count=1_000), n, 0)
    window.take(ids("x:1", max_count=1), 1_000, 1)
    for n in range(600):
        window.take(ids(f"y{n}:1", max_count=1_000), 1_001 + n, 1)
    kept = sum(len(chunk) for chunk in window._chunks.values())
    assert len(window) == 601
    assert kept <= (601 + 64) * ROW_BYTES
