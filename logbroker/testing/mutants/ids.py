"""Bugs in what becomes of messages with ids of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logbroker.node.partition_service import PartitionService, _produce_reply
from logbroker.partition import checkpoint, dedupe
from logbroker.partition.commands import Dedupe
from logbroker.partition.decide import Answer, decide_produce
from logbroker.partition.dedupe import DedupeWindow, Verdicts
from logbroker.partition.machine import PartitionMachine
from logbroker.partition.outcomes import Produced
from logbroker.record.batch import read_header
from logbroker.record.dedup_ids import BODY_HASH_BYTES
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from logbroker.ids import Index
    from logbroker.node.requests import Answer as Reply
    from logbroker.partition.checkpoint import CheckpointMeta
    from logbroker.partition.decide import Decision
    from logbroker.partition.dedupe import Row
    from logbroker.record.batch import BatchHeader
    from logbroker.testing.mutants.planting import Patch

_TESTS = "tests/unit/partition/test_dedupe.py"


@mutant("ids-lost-in-checkpoint", "B22", "a checkpoint does not bring back the window of ids")
def _(patch: Patch) -> None:
    decode = checkpoint.decode

    def forgetful(data: bytes | memoryview) -> tuple[PartitionMachine, CheckpointMeta]:
        machine, meta = decode(data)
        machine.dedupe = DedupeWindow()
        return machine, meta

    patch.function(decode, forgetful)


def _with_window(patch: Patch, longer_ms: int, more: int = 0) -> None:
    """Ids are known for so much longer, and so many more of them."""
    find, forget = DedupeWindow.find, DedupeWindow._forget

    def lenient(change: Dedupe) -> Dedupe:
        return Dedupe(change.window_ms + longer_ms, change.max_count + more, change.hashes, change.bodies)

    def find_late(window: DedupeWindow, hashed: bytes, change: Dedupe, append_ms: int) -> Row | None:
        return find(window, hashed, lenient(change), append_ms)

    patch.attribute(DedupeWindow, "find", find_late)
    patch.attribute(
        DedupeWindow, "_forget", lambda window, change, append_ms: forget(window, lenient(change), append_ms)
    )


@mutant(
    "id-window-a-millisecond-long",
    "B18",
    "an id is known in the very millisecond in which its window ends",
    test=f"{_TESTS}::test_the_leader_sees_the_edge_of_the_window_where_apply_does",
)
def _(patch: Patch) -> None:
    _with_window(patch, 1)


@mutant("id-window-too-long", "B18", "ids are known for a while after their window")
def _(patch: Patch) -> None:
    _with_window(patch, 400)


@mutant("conflict-as-duplicate", "B18", "a message with a known id and another body is told that it was sent")
def _(patch: Patch) -> None:
    patch.attribute(dedupe, "_body", lambda change, position: bytes(BODY_HASH_BYTES))


@mutant("duplicate-delivered", "B17", "a message with a known id is delivered all the same")
def _(patch: Patch) -> None:
    take = DedupeWindow.take

    def careless(window: DedupeWindow, change: Dedupe, base_offset: int, append_ms: int) -> Verdicts:
        take(window, change, base_offset, append_ms)
        return Verdicts()

    patch.attribute(DedupeWindow, "take", careless)


@mutant("known-batch-breaks-the-sequence", "B17", "a batch of known ids is not appended, whatever its sequence")
def _(patch: Patch) -> None:
    decide = decide_produce

    def brief(machine: PartitionMachine, header: BatchHeader, **asked: Any) -> Decision:  # noqa: ANN401  handed through
        found = decide(machine, header, **asked)
        ids = asked.get("ids")
        if ids is None or isinstance(found, Answer):
            return found
        known = machine.dedupe.look(
            ids, machine.next_offset, max(asked["now_ms"], machine.append_ms), voids=machine.voids
        )
        if len(known.positions()) < header.record_count:
            return found
        return Answer(Produced(machine.next_offset, header.record_count, True, 0, *known), machine.applied_index)

    patch.function(decide, brief)


@mutant("retry-takes-repeats-for-sent", "B18", "who sends a batch again is not told which of its messages were known")
def _(patch: Patch) -> None:
    patch.attribute(PartitionMachine, "verdicts", lambda machine, ids, base_offset: Verdicts())


@mutant("known-id-confirmed-early", "B18", "a duplicate of a message in flight is confirmed at once")
def _(patch: Patch) -> None:
    def hasty(service: PartitionService, outcome: Produced, after_index: Index, answer: Reply) -> None:
        del after_index
        answer(_produce_reply(outcome, service._append_ms_of(outcome.base_offset)))

    patch.attribute(PartitionService, "_answer_duplicate", hasty)


@mutant("ids-not-looked-at", "B17", "now and then a batch with ids is appended without them")
def _(patch: Patch) -> None:
    ids_of = PartitionService._ids_of

    def hasty(service: PartitionService, batch: bytes, header: BatchHeader) -> Dedupe | None:
        found = ids_of(service, batch, header)
        return found if read_header(batch).crc % 5 else None

    patch.attribute(PartitionService, "_ids_of", hasty)
