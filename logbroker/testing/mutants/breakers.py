"""Bugs in what pauses a consumer group that fails too often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from logbroker.node.breakers import Breakers
from logbroker.node.partition_service import PartitionService
from logbroker.partition import breaker
from logbroker.partition.breaker import Breaker
from logbroker.partition.outcomes import Applied, Released
from logbroker.testing.mutants.planting import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.ids import GroupName, Index
    from logbroker.partition.breaker import Counted
    from logbroker.partition.commands import Pause
    from logbroker.partition.machine import PartitionMachine


@mutant("breaker-counts-acks", "B24", "a breaker takes what was acked for failed")
def _(patch: Patch) -> None:
    endings = breaker.endings

    def gloomy(applied: Applied) -> Iterator[tuple[GroupName, int, int]]:
        for group, acked, failed in endings(applied):
            yield group, 0, acked + failed

    patch.function(endings, gloomy)


@mutant("breaker-counts-released", "B24", "a breaker takes what nobody got for failed")
def _(patch: Patch) -> None:
    endings = breaker.endings

    def strict(applied: Applied) -> Iterator[tuple[GroupName, int, int]]:
        yield from endings(applied)
        for outcome in applied.outcomes:
            if isinstance(outcome, Released):
                yield outcome.group, 0, outcome.count

    patch.function(endings, strict)


@mutant("breaker-without-least-count", "B24", "a breaker trips at the first failure")
def _(patch: Patch) -> None:
    def nervous(found: Breaker, now_ms: int) -> Counted | None:
        counted = found.counted(now_ms)
        return counted if counted.failed * 100 >= found.policy.percent * max(counted.ended, 1) else None

    patch.attribute(Breaker, "trips", nervous)


@mutant("breaker-without-window", "B24", "a breaker remembers failures for ever")
def _(patch: Patch) -> None:
    patch.attribute(Breaker, "_move_to", lambda found, now_ms: 0)


@mutant("breaker-trips-in-its-pause", "B24", "a breaker pauses a group that is paused")
def _(patch: Patch) -> None:
    patch.function(breaker.counts, lambda machine, group, now_ms: True)


@mutant("breaker-never-closes", "B26", "the pause of a breaker has no end")
def _(patch: Patch) -> None:
    decide_trip = breaker.decide_trip

    def endless(machine: PartitionMachine, group: GroupName, found: Breaker, *, now_ms: int) -> Pause | None:
        pause = decide_trip(machine, group, found, now_ms=now_ms)
        return None if pause is None else msgspec.structs.replace(pause, until_ms=0)

    patch.function(decide_trip, endless)


@mutant("breaker-holds-grudges", "B24", "what failed before a pause counts against a group after it")
def _(patch: Patch) -> None:
    def unforgiving(found: Breakers, group: GroupName, index: Index, *, applied: Index) -> None:
        found._tripping.pop(group, None)

    patch.attribute(Breakers, "begin_anew", unforgiving)


@mutant(
    "breaker-never-trips",
    "B26",
    "a group is not paused, however often it fails",
    test="tests/unit/node/test_breakers.py::test_a_consumer_that_fails_at_everything_is_stopped_before_anything_dies",
)
def _(patch: Patch) -> None:
    patch.attribute(Breaker, "trips", lambda found, now_ms: None)


@mutant(
    "breaker-after-polls",
    "B26",
    "who waits is served once more before the group is paused",
    test="tests/unit/node/test_breakers.py::test_who_waits_gets_nothing_of_what_was_given_back_for_the_last_straw",
)
def _(patch: Patch) -> None:
    after_pump, trip = PartitionService.after_pump, PartitionService._trip

    def late(service: PartitionService) -> None:
        patched = Patch()
        patched.attribute(PartitionService, "_trip", lambda service, now_ms: None)
        after_pump(service)
        patched.undo()
        trip(service, service._replica.stamp_ms())

    patch.attribute(PartitionService, "after_pump", late)
