"""Messages on their way from this partition to another: copied, sent, and reported as arrived, one number at a time.

What is owed stands in the replicated state (`partition.outbox`); all here is a leader's memory of what it has sent. The
next leader sends the same again, and the target knows it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, final

from logbroker.errors import (
    CorruptBatchError,
    DamageError,
    RequestError,
    RequestTooLargeError,
    StorageError,
    UnavailableError,
)
from logbroker.ids import GroupId, GroupName, Offset
from logbroker.node.dead_messages import Burials
from logbroker.node.requests import MoveFigures, MoveVerdict, TransferReply
from logbroker.partition.commands import MoveOut
from logbroker.partition.decide import Answer, Propose, Refused
from logbroker.partition.machine import MAX_OFFSET
from logbroker.partition.moving import MAX_MOVED_COUNT, decide_move_out, decide_moved
from logbroker.partition.offset_ranges import OffsetRanges
from logbroker.partition.outcomes import MovingOut
from logbroker.record.batch import Record, encode_batch, read_batch
from logbroker.record.records import HISTORY_BYTES, with_history_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from logbroker.errors import LogBrokerError
    from logbroker.node.replica import Replica
    from logbroker.node.requests import Reply
    from logbroker.partition.commands import Change, Ranges
    from logbroker.partition.machine import PartitionMachine
    from logbroker.partition.outbox import Owed
    from logbroker.partition.runs import Run
    from logbroker.record.batch import BatchLimits

MAX_MOVED_BYTES = 512 << 10
"""Of stored batches that one copy is made of; a single one may be larger."""
RETRY_MS = 1_000
"""After so long without an answer the same is sent again."""
NO_BATCH = b""
"""Sent in place of messages that cannot be copied: the target says that it never takes them, or that it did."""
MAX_DEAD_ROWS_OWED = 4
"""Rows that the leader adds by itself for one target while what is owed to it already has not arrived."""
MAX_TEXT_BYTES = HISTORY_BYTES // 6
"""Of one text of a history, which has at most four that somebody chose."""

HEADER_PREFIX = "logbroker-"
ORIGIN_QUEUE = "logbroker-origin-queue"
ORIGIN_ID = "logbroker-origin-id"
"""`queue/partition/offset` of the first copy; kept over every further move."""
ORIGIN_MS = "logbroker-origin-ms"
"""Log time of the first copy."""
GROUP = "logbroker-group"
ATTEMPTS = "logbroker-attempts"
CAUSE = "logbroker-cause"
REASON = "logbroker-reason"
CONSUMER = "logbroker-consumer"
_LAST = frozenset((GROUP, ATTEMPTS, CAUSE, REASON, CONSUMER))


@final
@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Which partition of which queue this is."""

    queue: str = ""
    partition: int = 0


NO_PLACE = QueuePlace()


class StoredBatch(Protocol):
    """A batch of the log, without its bytes where they are lost."""

    @property
    def base_offset(self) -> Offset: ...
    @property
    def next_offset(self) -> Offset: ...
    @property
    def append_ms(self) -> int: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def is_lost(self) -> bool: ...


class MoveHost(Protocol):
    def send_transfer(self, target: GroupId, source: GroupId, number: int, batch: bytes) -> None:
        """Have the target's leader take a batch; it answers by `Moves.on_answer`, or never."""

    def is_gone(self, group: GroupId) -> bool: ...

    def monotonic_ms(self) -> int: ...


@final
class Moves:
    """What one leader has under way."""

    def __init__(
        self,
        replica: Replica,
        host: MoveHost,
        *,
        limits: BatchLimits,
        read: Callable[[int, int], Iterable[StoredBatch]],
        count_that_fits: Callable[[Sequence[tuple[int, int]]], int],
        propose: Callable[[Sequence[Change]], None],
    ) -> None:
        self._replica = replica
        self._host = host
        self._limits = with_history_room(limits)
        self._read = read
        self._count_that_fits = count_that_fits
        self._propose = propose
        # By target: the number that was sent last, and when; and when it was sent first.
        self._sent: dict[int, tuple[int, int]] = {}
        self._began: dict[int, tuple[int, int]] = {}
        self.moved_out = self.moved_in = 0
        # Messages that cannot be copied: they stay as they are.
        self._stuck: dict[str, OffsetRanges] = {}
        # How many messages a row may have. Less than usual after a target has refused one, to find the one at fault.
        self._row_count = MAX_MOVED_COUNT

    def on_leading(self) -> None:
        self._sent.clear()
        self._began.clear()
        self._stuck.clear()
        self.moved_out = self.moved_in = 0
        self._row_count = MAX_MOVED_COUNT

    def movable(
        self, ahead: PartitionMachine, group: GroupName, ranges: Ranges, target: GroupId
    ) -> Propose | Answer | Refused:
        """Decide a move that somebody asked for: of what can be copied, as much as goes under one number.

        Raises:
            UnavailableError: nothing of it is committed yet.
        """
        stuck = self._stuck.get(group)
        left = ranges if stuck is None else tuple([part for a, b in ranges for part in _without(a, b, stuck)])
        if not left:
            return Answer(MovingOut(group, target, 0, 0), ahead.applied_index)
        decide = partial(decide_move_out, ahead, group, ranges=left, target=target, now_ms=self._replica.stamp_ms())
        decision = decide(max_count=self._row_count)
        if not isinstance(decision, Propose):
            return decision
        found = [part for change in decision.changes if isinstance(change, MoveOut) for part in change.ranges]
        fitting = self._count_that_fits(found)
        if not fitting:
            raise UnavailableError("the messages to be moved are not committed yet")
        if fitting < sum([end - start for start, end in found]):
            return decide(max_count=fitting)
        return decision

    def owe_dead(self, ahead: PartitionMachine, target: GroupId) -> None:
        """Have dead messages go to their queue for dead letters, if there are any.

        Raises:
            ProposalRefused: it can be tried again.
        """
        for stuck in self._stuck.values():
            stuck.drop_below(ahead.log_start_offset)
        room = MAX_DEAD_ROWS_OWED - ahead.outbox.count_for(target)
        for name in ahead.groups:
            if room <= 0:
                return
            found = self._first_dead(ahead, name)
            fitting = min(self._row_count, self._count_that_fits(found)) if found else 0
            if fitting:
                decision = decide_move_out(ahead, name, ranges=tuple(found), target=target, max_count=fitting)
                if isinstance(decision, Propose):
                    self._propose(decision.changes)
                    room -= 1

    def _first_dead(self, ahead: PartitionMachine, name: GroupName) -> list[tuple[int, int]]:
        table = ahead.group(name).table
        if not table.dead_count:
            return []
        stuck = self._stuck.get(name)
        found: list[tuple[int, int]] = []
        left = MAX_MOVED_COUNT
        for run in table.dead(0, MAX_OFFSET):
            for start, end in [(run.start, run.end)] if stuck is None else _without(run.start, run.end, stuck):
                found.append((start, min(end, start + left)))
                left -= found[-1][1] - start
                if not left:
                    return found
        return found

    def send(self, applied: PartitionMachine, place: QueuePlace) -> None:
        """Send to each target what it is owed next, unless that is on its way."""
        now_ms = self._host.monotonic_ms()
        for row in applied.outbox.heads():
            number, sent_ms = self._sent.get(row.target, (0, 0))
            if number == row.number and now_ms - sent_ms < RETRY_MS:
                continue
            self._sent[row.target] = row.number, now_ms
            if self._began.get(row.target, (0, 0))[0] != row.number:
                self._began[row.target] = row.number, now_ms
            if self._host.is_gone(GroupId(row.target)):
                # Whatever it has taken is gone with it.
                self._end(row.target, row.number, is_refused=True)
                continue
            with contextlib.suppress(StorageError):
                # Otherwise damaged here, and to come from a peer.
                batch = self._copied(applied, row, place)
                self._host.send_transfer(GroupId(row.target), self._replica.group, row.number, batch)

    def on_answer(self, target: int, number: int, verdict: MoveVerdict) -> None:
        """The target has said what became of a number; only a leader is told."""
        if verdict is MoveVerdict.LATER or not self._replica.is_serving:
            return
        ahead: PartitionMachine = self._replica.require_ahead()  # type: ignore[assignment]  # of a partition
        row = ahead.outbox.head(target)
        if row is None or row.number != number:
            return
        count = sum([end - start for start, end in row.ranges])
        if verdict is MoveVerdict.TAKEN:
            self.moved_out += count
            self._row_count = min(2 * self._row_count, MAX_MOVED_COUNT)
        elif not self._is_stuck(row):
            self._blame(row, count)
        self._end(target, number, is_refused=verdict is MoveVerdict.REFUSED)

    def _blame(self, row: Owed, count: int) -> None:
        """Nobody knows which message of a row is at fault: look for it in rows of half the size."""
        if count > 1:
            self._row_count = max(1, count // 2)
        else:
            self._keep(row.group, *row.ranges[0])

    def _is_stuck(self, row: Owed) -> bool:
        stuck = self._stuck.get(row.group)
        return stuck is not None and any(stuck.count(start, end) for start, end in row.ranges)

    def figures(self, applied: PartitionMachine) -> MoveFigures:
        """What is on its way, and what has been moved since this node began to lead."""
        waiting = sum([end - start for row in applied.outbox.rows() for start, end in row.ranges])
        heads = {row.number for row in applied.outbox.heads()}
        began_ms = [began_ms for number, began_ms in self._began.values() if number in heads]
        oldest_ms = self._host.monotonic_ms() - min(began_ms) if began_ms else 0
        return MoveFigures(waiting, oldest_ms, self.moved_out, self.moved_in)

    def _end(self, target: int, number: int, *, is_refused: bool) -> None:
        ahead: PartitionMachine = self._replica.require_ahead()  # type: ignore[assignment]  # of a partition
        change = decide_moved(ahead, target=target, number=number, is_refused=is_refused)
        if change is not None:
            self._propose((change,))

    def _keep(self, group: str, start: int, end: int) -> None:
        stuck = self._stuck.setdefault(group, OffsetRanges())
        for first, last in _without(start, end, stuck):
            stuck.add(first, last)

    def _copied(self, applied: PartitionMachine, row: Owed, place: QueuePlace) -> bytes:
        """What to send of a row. Raises StorageError where that cannot be told just now."""
        try:
            return self._copy(applied, row, place)
        except _UncopiableError as error:
            self._keep(row.group, *error.offsets)
        except RequestTooLargeError:
            # Together too large: stored batches are compressed, and the messages have got headers.
            self._blame(row, sum([end - start for start, end in row.ranges]))
        return NO_BATCH

    def _copy(self, applied: PartitionMachine, row: Owed, place: QueuePlace) -> bytes:
        """The messages of a row as a batch for the target.

        Raises:
            _UncopiableError: some of them cannot be read, and never will.
            RequestTooLargeError: they are too large for one batch.
            StorageError: they cannot be read just now.
        """
        burials = Burials(self._replica.core)
        records: list[Record] = []
        left_bytes = self._limits.max_uncompressed_bytes
        for start, end in row.ranges:
            at = start
            runs = iter(applied.group(GroupName(row.group)).table.overlap(start, end))
            run = next(runs)
            for batch in self._read(start, end):
                for offset, record in self._opened(batch, start, end):
                    if offset >= run.end:
                        run = next(runs)
                    origin = _origin(place, offset, batch.append_ms)
                    records.append(with_history(record, origin, _last(run, row.group, burials)))
                    at += 1
                    left_bytes -= len(record.value or b"") + len(record.key or b"")
                if left_bytes < 0:
                    raise RequestTooLargeError(f"more than {self._limits.max_uncompressed_bytes} bytes in a batch")
            if at != end:
                raise _UncopiableError(start, end)
        if burials.is_damaged and len(self._replica.conf.members()) > 1:
            raise DamageError("why a message died cannot be read here, and will come from a peer")
        return encode_batch(records, limits=self._limits)

    def _opened(self, batch: StoredBatch, start: int, end: int) -> list[tuple[int, Record]]:
        """The messages of [start, end) in a stored batch."""
        first, last = max(start, batch.base_offset), min(end, batch.next_offset)
        if batch.is_lost:
            raise _UncopiableError(first, last)
        try:
            opened = read_batch(batch.payload, self._limits)
        except (CorruptBatchError, RequestError) as error:
            # Nobody looked inside when it was produced.
            raise _UncopiableError(first, last) from error
        rows = zip(opened.offsets, opened.records, strict=True)
        return [(offset, record) for offset, record in rows if start <= offset < end]


@final
class _UncopiableError(Exception):
    """Messages of these offsets cannot be copied."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.offsets = start, end


def _without(start: int, end: int, stuck: OffsetRanges) -> list[tuple[int, int]]:
    """What of [start, end) is not stuck."""
    left: list[tuple[int, int]] = []
    for first, last in [*stuck.overlap(start, end), (end, end)]:
        if start < first:
            left.append((start, first))
        start = last
    return left


def verdict_of(result: Reply | LogBrokerError) -> MoveVerdict:
    """What a target's answer means for the source."""
    match result:
        case TransferReply(is_taken):
            return MoveVerdict.TAKEN if is_taken else MoveVerdict.REFUSED
        case _:
            # No refusal is believed that is not in the target's log: what was sent before may have been taken.
            return MoveVerdict.LATER


def with_history(record: Record, origin: dict[str, str], last: dict[str, str]) -> Record:
    """The record with what is known of it in headers: where it was first, and how it fared in the end."""
    present = {key for key, _ in record.headers}
    headers = [(key, value) for key, value in record.headers if key not in last]
    if ORIGIN_ID not in present:
        headers += [(key, value.encode()) for key, value in origin.items()]
    headers += [(key, value.encode()) for key, value in last.items()]
    return record._replace(headers=tuple(headers))


def _origin(place: QueuePlace, offset: int, append_ms: int) -> dict[str, str]:
    return {
        ORIGIN_QUEUE: place.queue,
        ORIGIN_ID: f"{place.queue}/{place.partition}/{offset}",
        ORIGIN_MS: str(append_ms),
    }


def _last(run: Run, group: str, burials: Burials) -> dict[str, str]:
    """How the message fared here; nothing for one that did not die here."""
    if not run.lease:
        return {}
    cause, reason, consumer = burials.burial(run.lease)
    return {
        GROUP: group,
        ATTEMPTS: str(run.deliveries),
        CAUSE: cause.name.lower() if cause is not None else "",
        REASON: _cut(reason),
        CONSUMER: _cut(consumer),
    }


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
