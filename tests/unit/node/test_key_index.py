"""The keys of stored messages: whole, torn and lost batches, the tail of the log, and what may be read at once."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from logbroker.errors import DamageError
from logbroker.ids import Offset
from logbroker.node import key_index
from logbroker.node.key_index import BLOCK, MAX_BLOCKS, KeyIndex
from logbroker.partition.ordering import NO_KEY
from logbroker.record.batch import Record, encode_batch


class Stored(NamedTuple):
    base_offset: Offset
    next_offset: Offset
    payload: bytes
    is_lost: bool = False


class Log:
    """Batches from `start` on, and how many were asked for."""

    def __init__(self, *batches: str, start: int = 0) -> None:
        self.stored: list[Stored] = []
        self.end = start
        self.reads = 0
        for letters in batches:
            self.append(letters)

    def append(self, letters: str, *, payload: bytes | None = None, is_lost: bool = False) -> None:
        records = [Record(b"v", None if letter == "-" else letter.encode()) for letter in letters]
        base, self.end = self.end, self.end + len(letters)
        self.stored.append(Stored(Offset(base), Offset(self.end), payload or encode_batch(records), is_lost))

    def batches(self, start: int, end: int) -> list[Stored]:
        self.reads += 1
        return [batch for batch in self.stored if batch.next_offset > start and batch.base_offset < end]

    def index(self) -> KeyIndex:
        index = KeyIndex(self.batches)
        index.begin(self.end)
        return index


def drawn(numbers: object) -> str:
    """Numbers as letters, by when each came first."""
    assert numbers is not None
    seen: dict[int, str] = {NO_KEY: "-"}
    return "".join([seen.setdefault(number, chr(ord("a") + len(seen) - 1)) for number in numbers])  # type: ignore[attr-defined]


def test_keys_are_equal_where_those_of_the_messages_are() -> None:
    assert drawn(Log("ab-a", "b", "-c").index().keys(0, 7)) == "ab-ab-c"
    assert drawn(Log("ab-a", "b", "-c").index().keys(2, 5)) == "-ab"
    assert drawn(Log("ab-a", "b", "-c").index().held(1, 6)) == "a-ba-"


def test_an_empty_key_is_one() -> None:
    log = Log()
    log.stored.append(Stored(Offset(0), Offset(2), encode_batch([Record(b"v", b""), Record(b"v", None)])))
    log.end = 2
    assert drawn(log.index().keys(0, 2)) == "a-"


def test_the_tail_grows_with_the_log_and_nothing_that_is_not_committed_is_told() -> None:
    log = Log("ab", "ab")
    index = log.index()
    index.begin(2)
    assert drawn(index.keys(0, 9)) == "ab"
    assert len(index.keys(2, 9) or ()) == 0
    index.begin(4)
    assert drawn(index.keys(2, 9)) == "ab"
    assert drawn(index.keys(0, 9)) == "abab"


def test_a_log_that_does_not_begin_at_a_block() -> None:
    log = Log("aab", start=BLOCK + 10)
    assert drawn(log.index().keys(BLOCK + 11, BLOCK + 13)) == "ab"


def test_a_batch_that_cannot_be_opened_has_no_keys() -> None:
    log = Log("aa")
    log.append("bb", is_lost=True)
    log.append("cc", payload=b"torn")
    log.append("a")
    assert drawn(log.index().keys(0, 7)) == "aa----a"


def test_damage_that_a_peer_will_repair_is_no_missing_key() -> None:
    def batches(start: int, end: int) -> list[Stored]:
        raise DamageError("damaged")

    index = KeyIndex(batches)
    index.begin(5)
    with pytest.raises(DamageError):
        index.keys(0, 5)


def test_full_blocks_of_a_few_keys_are_told_without_reading() -> None:
    log = Log(*["ab" * (BLOCK // 2)] * 2, "a")
    index = log.index()
    assert index.few(0) is None
    for block in range(2):
        index.keys(block * BLOCK, log.end)
    found = index.few(BLOCK + 3)
    assert found is not None
    assert (found[0], len(found[1])) == (2 * BLOCK, 2)
    index.keys(2 * BLOCK, log.end)
    assert index.few(2 * BLOCK) is None


def test_a_receive_reads_so_much_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "MAX_READ_KEYS", BLOCK)
    log = Log(*["abcdefghijklmnop" * (BLOCK // 16)] * 3)
    index = log.index()
    assert index.keys(0, log.end) is not None
    assert index.keys(BLOCK, log.end) is None
    assert index.held(2 * BLOCK, 2 * BLOCK + 1) is None
    assert index.keys(0, log.end) is not None
    index.begin(log.end)
    assert index.keys(BLOCK, log.end) is not None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "MAX_BLOCKS", 2)
    log = Log(*["abcdefghijklmnop" * (BLOCK // 16)] * 3)
    index = log.index()
    for block in (0, 1, 0, 2, 0):
        index.begin(log.end)
        index.keys(block * BLOCK, log.end)
    assert log.reads == 3
    index.begin(log.end)
    index.keys(BLOCK, log.end)
    assert log.reads == 4
    assert MAX_BLOCKS * BLOCK > key_index.MAX_READ_KEYS
