"""Log time: the clock from which a leader stamps entries, and whether it may.

    wall clocks of the reachable nodes -> median -> may this node lead, may it stamp
                                       -> the lowest but a minority -> no leadership begins later than that
    anchor (wall time, taken while it agrees) -> running clock (monotonic, slewed by at most 500 ppm) -> append_ms

A wall clock may jump by days; what it says ends leases and deletes messages. So it is believed at a start and at the
beginning of a leadership, each time only as far as the other nodes agree, and in between it may only pull gently.
All readings come in as arguments, in nanoseconds, and all arithmetic is in integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, final

from logbroker.errors import InvalidArgumentError, invariant

if TYPE_CHECKING:
    from logbroker.ids import NodeId

_MS = 1_000_000
_SECOND = 1_000 * _MS
_HOUR = 3_600 * _SECOND
_SLEW_PPM = 500


@final
@dataclass(frozen=True, slots=True)
class ClockSettings:
    """`max_skew_ms`: farthest that a node's wall clock may lie from the median for it to lead.

    `max_clock_step_ms`: most that wall time may run ahead of log time and be followed without anybody's word.
    """

    max_skew_ms: int = 1_000
    max_clock_step_ms: int = 3_600_000
    # A peer that has not been heard of for this long is not reachable.
    peer_age_ms: int = 5_000
    # After a start that followed a step, retention by time waits for so much running time.
    step_quarantine_ms: int = 3_600_000
    # A single node has nobody to ask: above this step its retention waits for the operator.
    max_lone_step_ms: int = 86_400_000

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise InvalidArgumentError(f"{name} {getattr(self, name)} is not above 0")


@final
class Reading(NamedTuple):
    """The wall clock and the monotonic clock of this process at one moment."""

    wall_ns: int
    monotonic_ns: int


@final
class Verdict(Enum):
    """How this node's wall clock stands to the others'."""

    UNKNOWN = "unknown"
    """Fewer than a majority of the nodes, this one included, are heard of."""
    AGREES = "agrees"
    DISAGREES = "disagrees"


@final
@dataclass(frozen=True, slots=True)
class ClockStatus:
    """For operators. `skew_ms` is own wall time minus the median; `step_ms` wall time minus running log time."""

    verdict: Verdict
    skew_ms: int | None
    step_ms: int
    step_refused: bool
    floor_by_time_allowed: bool


@final
class RunningClock:
    """A clock that always runs with monotonic time, slewed by at most 500 ppm towards the wall clock."""

    __slots__ = ("_monotonic_ns", "_value_ns")

    def __init__(self, value_ns: int, monotonic_ns: int) -> None:
        self._value_ns = value_ns
        self._monotonic_ns = monotonic_ns

    def advance(self, reading: Reading, *, max_step_ns: int) -> int:
        """Run to `reading` and return the clock in ns; a wall clock more than `max_step_ns` ahead does not pull."""
        elapsed = reading.monotonic_ns - self._monotonic_ns
        invariant(elapsed >= 0, f"monotonic time went back by {-elapsed} ns")
        value = self._value_ns + elapsed
        error = reading.wall_ns - value
        if error <= max_step_ns:
            most = elapsed * _SLEW_PPM // 1_000_000
            value += max(-most, min(most, error))
        self._value_ns = value
        self._monotonic_ns = reading.monotonic_ns
        return value

    def set_to(self, value_ns: int) -> None:
        self._value_ns = value_ns


@final
class LeaderClock:
    """The clock of one leadership of one partition; it ends with it."""

    __slots__ = ("_accepted", "_node", "_running")

    def __init__(self, node: LogClock, running: RunningClock) -> None:
        self._node = node
        self._running = running
        self._accepted = node.accepted_count

    def append_ms(self, reading: Reading, *, previous_ms: int) -> int:
        """Return the log time of the next entry: never below `previous_ms`, that of the last one.

        Ask `may_stamp` of the node's clock first.
        """
        now_ns = self._running.advance(reading, max_step_ns=self._node.max_step_ns)
        if self._accepted != self._node.accepted_count:
            self._accepted = self._node.accepted_count
            now_ns = max(now_ns, reading.wall_ns)
            self._running.set_to(now_ns)
        return max(previous_ms, now_ns // _MS)


@final
class LogClock:
    """The node's view of time: judges its wall clock by its peers', and starts the clocks of leaderships.

    Tell it of every peer's wall time (`peer_says`) and of the time at least once a second (`observe`).
    """

    def __init__(
        self,
        reading: Reading,
        *,
        cluster_size: int,
        last_append_ms: int,
        settings: ClockSettings | None = None,
    ) -> None:
        """Start with the process; `last_append_ms` is the latest log time in any log of this node, 0 if none."""
        self._settings = settings or ClockSettings()
        self._cluster_size = cluster_size
        self._started_ns = reading.monotonic_ns
        self._peers: dict[NodeId, Reading] = {}
        self._verdict = Verdict.UNKNOWN
        # The last verdict that was not UNKNOWN: losing sight of the others makes a good clock no worse.
        self._decisive = Verdict.UNKNOWN
        self._skew_ns: int | None = None
        # How far this node's wall clock is ahead of one that is not ahead of every right one; None before any is known.
        self._lead_ns: int | None = None
        self._step_ns = 0
        self._step_refused = False
        self.accepted_count = 0
        gap_ns = reading.wall_ns - last_append_ms * _MS
        # A log that slept longer than a step: its clock stays at its last entry until the median agrees.
        self._gap_pending = last_append_ms > 0 and gap_ns > self.max_step_ns
        self._floor_waits_ns = self._settings.step_quarantine_ms * _MS if self._gap_pending else 0
        lone = cluster_size == 1
        self._floor_needs_accept = lone and last_append_ms > 0 and gap_ns > self._settings.max_lone_step_ms * _MS
        start_ns = last_append_ms * _MS if self._gap_pending else reading.wall_ns
        self._running = RunningClock(start_ns, reading.monotonic_ns)
        self.observe(reading)

    @property
    def max_step_ns(self) -> int:
        return self._settings.max_clock_step_ms * _MS

    def peer_says(self, node: NodeId, *, wall_ns: int, reading: Reading) -> None:
        """Take a peer's wall time out of a hello or heartbeat that came in at `reading`."""
        self._peers[node] = Reading(wall_ns, reading.monotonic_ns)

    def peer_gone(self, node: NodeId) -> None:
        """Forget a peer that is no longer reachable."""
        self._peers.pop(node, None)

    def observe(self, reading: Reading) -> Verdict:
        """Judge the wall clock as of `reading`, and let the running clock run to it."""
        self._judge(reading)
        if self._gap_pending and self._verdict is Verdict.AGREES:
            self._gap_pending = False
            self._running = RunningClock(reading.wall_ns, reading.monotonic_ns)
        value = self._running.advance(reading, max_step_ns=self.max_step_ns)
        self._step_ns = reading.wall_ns - value
        self._step_refused = self._step_ns > self.max_step_ns
        return self._verdict

    def may_lead(self) -> bool:
        """Say whether this node may campaign: a majority is heard of and this node's clock agrees with it."""
        return self._verdict is Verdict.AGREES

    def may_stamp(self) -> bool:
        """Say whether a leader here may give log time to entries; if not, it hands leadership over first."""
        return self._decisive is Verdict.AGREES

    def floor_by_time_allowed(self, reading: Reading) -> bool:
        """Say whether retention by time may go on; retention by size always may."""
        waited = reading.monotonic_ns - self._started_ns >= self._floor_waits_ns
        held_up = self._step_refused or self._gap_pending or self._floor_needs_accept
        return waited and not held_up and self.may_stamp()

    def lead(self, reading: Reading, *, last_append_ms: int) -> LeaderClock:
        """Start the clock of a leadership at the later of the anchor and the log's last append_ms.

        The anchor is taken again here if the wall clock agrees with the median and is no step ahead.
        """
        self.observe(reading)
        if self._verdict is Verdict.AGREES and not self._step_refused:
            self._running = RunningClock(reading.wall_ns, reading.monotonic_ns)
        value = self._running.advance(reading, max_step_ns=self.max_step_ns)
        if self._lead_ns is not None:
            value = min(value, reading.wall_ns - self._lead_ns + self._settings.max_skew_ms * _MS)
        return LeaderClock(self, RunningClock(max(value, last_append_ms * _MS), reading.monotonic_ns))

    def accept(self, reading: Reading) -> None:
        """The operator's word that the wall clock is right: follow it, forward, and let retention go on."""
        self._gap_pending = False
        self._floor_needs_accept = False
        self._floor_waits_ns = 0
        self.accepted_count += 1
        self._running = RunningClock(reading.wall_ns, reading.monotonic_ns)
        self.observe(reading)

    def status(self, reading: Reading) -> ClockStatus:
        skew_ms = None if self._skew_ns is None else self._skew_ns // _MS
        allowed = self.floor_by_time_allowed(reading)
        return ClockStatus(self._verdict, skew_ms, self._step_ns // _MS, self._step_refused, allowed)

    def _judge(self, reading: Reading) -> None:
        oldest = reading.monotonic_ns - self._settings.peer_age_ms * _MS
        # What a peer said has run on since.
        walls = [
            said.wall_ns + reading.monotonic_ns - said.monotonic_ns
            for said in self._peers.values()
            if said.monotonic_ns >= oldest
        ]
        walls.append(reading.wall_ns)
        if 2 * len(walls) <= self._cluster_size:
            self._verdict, self._skew_ns = Verdict.UNKNOWN, None
            return
        walls.sort()
        self._skew_ns = reading.wall_ns - walls[(len(walls) - 1) // 2]
        # Of all nodes a minority may be wrong, and all of it may be among those that are heard of: then their median
        # is worth nothing, but the lowest that a minority leaves is not ahead of every right clock.
        self._lead_ns = reading.wall_ns - walls[len(walls) - 1 - (self._cluster_size - 1) // 2]
        agrees = abs(self._skew_ns) <= self._settings.max_skew_ms * _MS
        self._verdict = Verdict.AGREES if agrees else Verdict.DISAGREES
        self._decisive = self._verdict
