"""Judges what those were told who sent messages with ids of their own."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, final

from logbroker.record.batch import decode_batch
from logbroker.record.dedup_ids import DEDUP_HEADER
from logbroker.testing.violation import broken

if TYPE_CHECKING:
    from logbroker.ids import Index
    from logbroker.node.requests import ProduceReply, ProduceRequest
    from logbroker.testing.dedupe_model import FirstMessage
    from logbroker.testing.history import Operation
    from logbroker.testing.model import PartitionModel


@final
class IdChecker:
    """Of one partition; part of its `AnswerChecker`, whose counts it fills."""

    def __init__(self, model: PartitionModel, counts: dict[str, int]) -> None:
        self._model = model
        self._ids = model.ids
        self._counts = counts

    def check(self, operation: Operation, request: ProduceRequest, reply: ProduceReply) -> None:
        """Judge a confirmation.

        Raises:
            Violation: it was not true at any moment at which it may have been made.
        """
        sent = [(dict(record.headers).get(DEDUP_HEADER), record.value or b"") for record in decode_batch(request.batch)]
        marked = {*dict(reply.duplicates), *reply.conflicts}
        if reply.count != len(sent) or len(marked) != len(reply.duplicates) + len(reply.conflicts):
            broken("every message of a batch is answered once", operation.describe())
        for position, offset in reply.duplicates:
            self._check_first(operation, sent[position], offset)
        gone_below = self._model.log_start_at(operation.applied_at_reply)
        if self._stands(reply.base_offset, sent, marked, gone_below):
            self._check_standing(operation, reply, marked)
        elif len(marked) < len(sent) or not reply.duplicate:
            broken("confirmed messages are in the log at their offset", operation.describe())
        else:
            self._count("batches of known ids not appended")
            self._check_known(operation, reply, sent)
        self._check_time(operation, reply)

    def _stands(
        self, base_offset: int, sent: list[tuple[bytes | None, bytes]], marked: set[int], gone_below: int
    ) -> bool:
        """Whether the batch is in the log at that offset, and nothing delivers those that are marked, or only them.

        Of what a full queue has dropped before its window was over, nobody knows any more what was a repeat.
        """
        for position, (_, value) in enumerate(sent):
            offset = base_offset + position
            there = self._model.values[offset] if offset < self._model.next_offset else None
            is_repeat = offset in self._ids.repeats
            if there != value or (position in marked and not is_repeat):
                return False
            if is_repeat and position not in marked and offset >= gone_below:
                return False
        return True

    def _check_first(self, operation: Operation, sent: tuple[bytes | None, bytes], offset: int) -> None:
        first = self._ids.by_offset.get(offset)
        if first is None or (first.name, first.value) != sent or first.index > operation.applied_at_reply:
            broken("a duplicate is told where the first is", f"{sent} is not {first}: {operation.describe()}")

    def _check_standing(self, operation: Operation, reply: ProduceReply, marked: set[int]) -> None:
        index, _ = self._model.entry_at(reply.base_offset)
        if index > operation.applied_at_reply:
            broken("a confirmation comes after commit", f"it is entry {index}: {operation.describe()}")
        firsts = dict(reply.duplicates)
        if reply.duplicate:
            self._count("batches with ids sent again")
        for position in marked:
            repeat = self._ids.repeats[reply.base_offset + position]
            told_conflict = position in reply.conflicts
            if not reply.duplicate and (
                told_conflict != repeat.is_conflict or firsts.get(position, repeat.first.offset) != repeat.first.offset
            ):
                broken("a batch is told what became of its messages", f"{repeat}: {operation.describe()}")
            # Who asks again later may be told the worse of what it may have been.
            is_cancelled = repeat.first.offset in self._model.schedule.cancelled
            if told_conflict and not repeat.is_conflict and not is_cancelled and self._is_known_still(repeat.first):
                broken("a duplicate is no conflict", f"{repeat}: {operation.describe()}")

    def _check_known(self, operation: Operation, reply: ProduceReply, sent: list[tuple[bytes | None, bytes]]) -> None:
        """Every id was known when it was asked, and that to the millisecond."""
        before = operation.committed_before
        for _, offset in reply.duplicates:
            first = self._ids.by_offset[offset]
            if not self._may_be_known(first, before):
                broken("an id is known for its window, and no longer", f"{first}: {operation.describe()}")
            was_kept = offset >= self._model.log_start_at(operation.applied_at_reply)
            if was_kept and self._model.schedule.cancelled.get(offset, before + 1) <= before:
                broken("what was cancelled is not told as sent", f"{first}: {operation.describe()}")
        for position in reply.conflicts:
            name, value = sent[position]
            if not any(
                first.name == name
                and (first.value != value or first.offset in self._model.schedule.cancelled)
                and first.index <= operation.applied_at_reply
                and self._may_be_known(first, before)
                for first in self._ids.firsts
            ):
                broken("a conflict is with another body", f"{name!r} as {value!r}: {operation.describe()}")

    def _may_be_known(self, first: FirstMessage, index: Index) -> bool:
        """Whether an id may count still after the entry at `index`; log time is at least that of the last batch."""
        if self._ids.count_at(index) - first.number > self._ids.max_count:
            return False
        batches = bisect_right(self._model.data_entries, index, key=lambda entry: entry[0])
        log_ms = self._model.data_entries[batches - 1][1] if batches else 0
        return log_ms - first.append_ms < self._ids.window_ms

    def _is_known_still(self, first: FirstMessage) -> bool:
        """Whether an id counts after all that is in the log, and so has counted whenever it was asked for."""
        age_ms = self._model.append_ms - first.append_ms
        return len(self._ids.firsts) - first.number <= self._ids.max_count and age_ms < self._ids.window_ms

    def _check_time(self, operation: Operation, reply: ProduceReply) -> None:
        if reply.base_offset >= self._model.next_offset:
            return
        _, append_ms = self._model.entry_at(reply.base_offset)
        if reply.append_ms != append_ms and not (reply.duplicate and not reply.append_ms):
            broken("a confirmation comes after commit", f"log time {append_ms}: {operation.describe()}")

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1
