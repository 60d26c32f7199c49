"""What a leader knows of one follower, and how fast it may send to it.

PROBE: one append at a time until the logs are known to meet; accepted: REPLICATE.
REPLICATE: appends follow one another within a window; one rejected or lost: PROBE.
SNAPSHOT: the entries it needs are gone; no append until the snapshot is in (REPLICATE) or failed (PROBE).
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import final

from logbroker.errors import violated
from logbroker.ids import Index


@final
class ProgressState(IntEnum):
    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


@final
class Inflights:
    """The window of appends on their way to one follower, bounded in messages and in bytes.

    The byte bound is soft: one message may overstep it, so a message larger than the bound still travels.
    """

    __slots__ = ("_bytes", "_sent", "max_bytes", "max_count")

    def __init__(self, *, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self._sent: deque[tuple[Index, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    @property
    def is_full(self) -> bool:
        return len(self._sent) >= self.max_count or self._bytes >= self.max_bytes

    def add(self, last: Index, size_bytes: int) -> None:
        if self.is_full:
            violated(f"append up to {last} sent into a full window of {len(self._sent)} messages, {self._bytes} bytes")
        self._sent.append((last, size_bytes))
        self._bytes += size_bytes

    def free_through(self, index: Index) -> None:
        """Forget every message whose last index is at or below `index`."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self._bytes -= sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self._bytes = 0


@final
class Progress:
    """One follower (or the leader itself, whose `match` is what its own disk has)."""

    __slots__ = (
        "inflights",
        "is_learner",
        "is_paused",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(
        self, next_index: Index, inflights: Inflights, *, is_learner: bool, recent_active: bool = True
    ) -> None:
        # Invariant: match < next. Entries between the two are on their way.
        self.match = Index(0)
        self.next = next_index
        # Highest commit index on its way; saves appends that could tell the follower nothing.
        self.sent_commit = Index(0)
        self.state = ProgressState.PROBE
        # In SNAPSHOT: the index of the snapshot on its way; 0 otherwise.
        self.pending_snapshot = Index(0)
        # Heard from since the last quorum check. A new member counts as heard from, so that adding it
        # never makes the leader step down before it had a chance to answer.
        self.recent_active = recent_active
        # No append until a heartbeat response: a probe is out, or the window is full. Always true in SNAPSHOT.
        self.is_paused = False
        self.inflights = inflights
        self.is_learner = is_learner

    def _enter(self, state: ProgressState, next_index: Index) -> None:
        self.state = state
        self.next = next_index
        self.is_paused = state is ProgressState.SNAPSHOT
        self.pending_snapshot = Index(0)
        self.inflights.clear()

    def become_probe(self) -> None:
        """Ask again from what is known; after a snapshot, from its end, since it is said to be in."""
        self._enter(ProgressState.PROBE, Index(max(self.match, self.pending_snapshot) + 1))
        self.sent_commit = min(self.sent_commit, Index(self.next - 1))

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE, Index(self.match + 1))

    def become_snapshot(self, index: Index) -> None:
        self._enter(ProgressState.SNAPSHOT, Index(index + 1))
        self.pending_snapshot = index
        self.sent_commit = index

    def on_sent(self, count: int, size_bytes: int) -> None:
        """Account for one append of `count` entries from `next` on."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next = Index(self.next + count)
                self.inflights.add(Index(self.next - 1), size_bytes)
            # With a full window even an empty append is a probe: one until the next heartbeat response.
            self.is_paused = self.inflights.is_full
        elif self.state is ProgressState.PROBE:
            self.is_paused = self.is_paused or count > 0
        else:
            violated(f"append of {count} entries from {self.next} sent to a follower that waits for a snapshot")

    def can_bump_commit(self, commit: Index) -> bool:
        """Whether telling `commit` now could tell the follower anything that is not on its way already."""
        return self.sent_commit < commit and self.sent_commit < self.next - 1

    def on_accepted(self, index: Index) -> bool:
        """Note that the follower has everything up to `index`; False if that is old news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = Index(index + 1)
        self.resume()
        return True

    def resume(self) -> None:
        """Allow one more append: the follower was heard from. A snapshot on its way still comes first."""
        if self.state is not ProgressState.SNAPSHOT:
            self.is_paused = False

    def on_rejected(self, rejected: Index, hint: Index) -> bool:
        """Note that the append after `rejected` did not fit; `hint` is where the logs may meet.

        Returns False, and changes nothing, if the rejection is of an append older than what is known.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = Index(self.match + 1)
        elif self.state is ProgressState.SNAPSHOT or self.next - 1 != rejected:
            # Only one probe is out at a time: this answers another one.
            return False
        else:
            self.next = Index(max(min(rejected, hint + 1), self.match + 1))
            self.is_paused = False
        self.sent_commit = min(self.sent_commit, Index(self.next - 1))
        return True
