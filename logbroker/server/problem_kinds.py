"""Which kind of trouble a sentence of a node tells of, so that alerts need not read sentences.

The node says its problems in words, for people, and nothing else; a test holds the words here to those that it uses.
"""

from __future__ import annotations

import re
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


@final
class ProblemKind(StrEnum):
    NODE_MISSING = "node_missing"
    NO_LEADER = "no_leader"
    GROUP_STOPPED = "group_stopped"
    FILLING = "filling"
    """A replica gets a snapshot."""
    DAMAGE = "damage"
    CLOCK = "clock"
    COMMIT_LATE = "commit_late"
    """A group commit does not come back from the disk."""
    WAL_STALLED = "wal_stalled"
    NO_ROOM = "no_room"
    BREAKER = "breaker"
    """A consumer group is paused because too many deliveries failed."""
    OTHER = "other"


# The first that is found in a sentence says what it is.
_WORDS: tuple[tuple[str, ProblemKind], ...] = (
    (r"^node \d+ is (unreachable|missing): ", ProblemKind.NODE_MISSING),
    (r"^group \d+ has no leader", ProblemKind.NO_LEADER),
    (r"^group \d+ stopped: ", ProblemKind.GROUP_STOPPED),
    (r"^replica \d+ of group \d+ is filling", ProblemKind.FILLING),
    (r"^replica \d+ of group \d+ has \d+ damaged entries", ProblemKind.DAMAGE),
    (r"^this node's clock is ", ProblemKind.CLOCK),
    (r"^a group commit has been on its way to the disk for ", ProblemKind.COMMIT_LATE),
    (r"^the write-ahead log is full and waits for a flush", ProblemKind.WAL_STALLED),
    (r"^the disk has little room left ", ProblemKind.NO_ROOM),
    (r"^(consumer group \S+|\d+ more consumer groups) of \S+ (is|are) paused until .*, breaker: ", ProblemKind.BREAKER),
)
_KINDS = tuple((re.compile(words), kind) for words, kind in _WORDS)


def kind_of_problem(problem: str, *, unmended: Collection[str] = ()) -> ProblemKind:
    """`unmended` are the sentences of the scrubber, which are all of damage."""
    if problem in unmended:
        return ProblemKind.DAMAGE
    return next((kind for words, kind in _KINDS if words.match(problem)), ProblemKind.OTHER)


def count_problems(problems: Iterable[str], *, unmended: Collection[str] = ()) -> dict[ProblemKind, int]:
    """How many there are of every kind, those of which there are none too."""
    found = Counter(kind_of_problem(problem, unmended=unmended) for problem in problems)
    return {kind: found[kind] for kind in ProblemKind}
