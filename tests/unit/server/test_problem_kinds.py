from __future__ import annotations

import inspect
import re

import pytest

from logbroker.ids import GroupId, GroupName, NodeId, ReplicaId
from logbroker.node.broker import Broker
from logbroker.node.node_status import damage_of, describe_tripped, leaderless
from logbroker.partition.breaker import Counted, describe_trip
from logbroker.partition.pause import PauseRecord
from logbroker.server.problem_kinds import _WORDS, ProblemKind, count_problems, kind_of_problem

TRIPPED = PauseRecord(describe_trip(Counted(50, 45), 10_000), 1_000, 31_000)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (damage_of(GroupId(3), ReplicaId(4), 2, [ReplicaId(4)]), ProblemKind.DAMAGE),
        (damage_of(GroupId(3), ReplicaId(4), 2, [ReplicaId(4), ReplicaId(5)]), ProblemKind.DAMAGE),
        (leaderless(GroupId(3), own=NodeId(1), members=[NodeId(1)], heard=[]), ProblemKind.NO_LEADER),
        (leaderless(GroupId(3), own=NodeId(1), members=[NodeId(1), NodeId(2)], heard=[]), ProblemKind.NO_LEADER),
        ("node 3 is unreachable: it is not linked", ProblemKind.NODE_MISSING),
        ("node 3 is missing: it has not joined", ProblemKind.NODE_MISSING),
        ("group 3 stopped: offsets have a hole", ProblemKind.GROUP_STOPPED),
        ("replica 4 of group 3 is filling, 30 %", ProblemKind.FILLING),
        ("this node's clock is 1200 ms off the median of the nodes: it does not lead", ProblemKind.CLOCK),
        ("a group commit has been on its way to the disk for 3.0 s", ProblemKind.COMMIT_LATE),
        ("the write-ahead log is full and waits for a flush", ProblemKind.WAL_STALLED),
        ("the disk has little room left (scarce): produce is refused", ProblemKind.NO_ROOM),
        *[(told, ProblemKind.BREAKER) for told in describe_tripped("orders/0", [(GroupName("g"), TRIPPED)] * 7)],
        ("the node does not run", ProblemKind.OTHER),
    ],
)
def test_a_sentence_is_of_its_kind(problem: str, kind: ProblemKind) -> None:
    assert kind_of_problem(problem) is kind


def test_what_the_scrubber_says_is_damage_whatever_the_words() -> None:
    assert kind_of_problem("both copies are gone") is ProblemKind.OTHER
    assert kind_of_problem("both copies are gone", unmended=("both copies are gone",)) is ProblemKind.DAMAGE


@pytest.mark.parametrize(
    "kind",
    [
        ProblemKind.CLOCK,
        ProblemKind.COMMIT_LATE,
        ProblemKind.WAL_STALLED,
        ProblemKind.NO_ROOM,
        ProblemKind.GROUP_STOPPED,
        ProblemKind.FILLING,
    ],
)
def test_the_node_says_it_in_these_words(kind: ProblemKind) -> None:
    """These sentences are made in the middle of the broker, so its source is what there is to hold on to."""
    source = inspect.getsource(Broker)
    (words,) = [words for words, found in _WORDS if found is kind]
    # Numbers stand in braces there.
    literal = re.sub(r"\\d\+", "{[^}]*}", words.removeprefix("^"))
    assert re.search(f'"{literal}', source), literal


def test_every_kind_is_counted_and_none_twice() -> None:
    found = count_problems(["this node's clock is slow", "nobody knows", "group 3 has no leader yet"])
    assert set(found) == set(ProblemKind)
    assert sum(found.values()) == 3
    assert (found[ProblemKind.CLOCK], found[ProblemKind.OTHER], found[ProblemKind.NO_ROOM]) == (1, 1, 0)
