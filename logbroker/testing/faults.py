"""Which faults a run has, how strong they are, and the injector that lets them happen.

Swarm: each seed draws a subset of the kinds and a rate for each, because one fault that is always on hides
what the others would show. Some seeds stay nearly healthy: clusters have lost data there too.
The last good copy of a committed entry is never destroyed (the fault atlas): kinds that destroy durable
data strike one node at a time, and only while every other node is whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, final

from logbroker.testing.network import Cut, LinkQuality
from logbroker.testing.scheduler import US_PER_MS, US_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from logbroker.ids import NodeId
    from logbroker.testing.cluster import SimulatedCluster
    from logbroker.testing.node import SimulatedNode


@final
class FaultKind(Enum):
    KILL = "kill"
    """The process ends; what it wrote is still in the page cache."""
    POWER_CUT = "power cut"
    """The machine ends; what was not synced is left or lost, page by page."""
    POWER_CUT_ALL = "power cut of all nodes"
    CRASH_AT_WRITE = "crash at a write"
    """A power cut in the middle of a job of the disk."""
    PAUSE = "pause"
    SLOW_DISK = "slow disk"
    STALLED_DISK = "stalled disk"
    STALLED_FLUSH = "stalled flush"
    """Only the flusher's jobs hang; commits go on."""
    FAILED_SYNC = "failed sync"
    FAILED_WRITE = "failed write"
    FULL_DISK = "full disk"
    BIT_ROT = "bit rot"
    """Bits of a stopped node's files flip."""
    WIPE = "wiped disk"
    """The node comes back with an empty disk: a new incarnation, which joins under a new replica id."""
    ISOLATE = "isolate"
    ONE_WAY = "one-way cut"
    SPLIT = "split"
    CLOG = "clog"
    CLOSE = "connection closed"
    REFUSE = "connection refused"
    CLIENTS_CUT = "clients cut off from a node"
    CLOCK_STEP = "clock step"
    CLOCK_JUMP = "clock jump of days"
    DRIFT = "clock drift"
    TRANSFER = "leadership transfer"
    MEMBERSHIP = "replica moved"
    DEAF = "deaf or mute node"
    """All that is sent to a node is lost, or all that it sends."""
    MISDIRECTED = "misdirected write"
    """A piece of a segment, or pages of the write-ahead log of a stopped node, land elsewhere in their file."""


_RATES: dict[FaultKind, float] = {
    FaultKind.KILL: 0.10,
    FaultKind.POWER_CUT: 0.10,
    FaultKind.POWER_CUT_ALL: 0.03,
    FaultKind.CRASH_AT_WRITE: 0.15,
    FaultKind.PAUSE: 0.12,
    FaultKind.SLOW_DISK: 0.10,
    FaultKind.STALLED_DISK: 0.05,
    FaultKind.STALLED_FLUSH: 0.06,
    FaultKind.FAILED_SYNC: 0.08,
    FaultKind.FAILED_WRITE: 0.04,
    FaultKind.FULL_DISK: 0.05,
    FaultKind.BIT_ROT: 0.04,
    FaultKind.WIPE: 0.03,
    FaultKind.ISOLATE: 0.30,
    FaultKind.ONE_WAY: 0.12,
    FaultKind.SPLIT: 0.12,
    FaultKind.CLOG: 0.08,
    FaultKind.CLOSE: 0.15,
    FaultKind.REFUSE: 0.06,
    FaultKind.CLIENTS_CUT: 0.06,
    FaultKind.CLOCK_STEP: 0.05,
    FaultKind.CLOCK_JUMP: 0.03,
    FaultKind.DRIFT: 0.03,
    FaultKind.TRANSFER: 0.10,
    FaultKind.MEMBERSHIP: 0.04,
    FaultKind.DEAF: 0.08,
    FaultKind.MISDIRECTED: 0.03,
}
"""How often each happens in a second, when it is on and of usual strength."""

_LATER_KINDS = (FaultKind.DEAF, FaultKind.MISDIRECTED)
"""Drawn after everything else."""

_PLAIN_LINKS = LinkQuality()
_RECOVERY_CRASH_SHARE = 0.15
_INSTALL_CRASH_SHARE = 0.15
_INSTALL_KILL_SHARE = 0.3
"""Of the pieces of a snapshot that a node writes: a leader is killed meanwhile, which seldom happens by chance."""
"""Of the times when a snapshot is written: too short to be hit by chance."""
_HEALTHY_SHARE = 0.12
_ON_SHARE = 0.4
DAY_MS = 86_400_000


@final
@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one run. `rates` are happenings in a simulated second, by kind; what is off is not in it."""

    rates: dict[FaultKind, float] = field(default_factory=dict)
    quality: LinkQuality = _PLAIN_LINKS
    clock_offset_ms: int = 0
    """Wall clocks start up to this far from true time, either way."""
    drift_ppm: int = 0
    burst_share: float = 0.0
    """Share of faults that are followed by another one of any kind that is on, within a second."""

    def describe(self) -> str:
        kinds = ", ".join(f"{kind.value} {rate:.2f}/s" for kind, rate in self.rates.items())
        quality = self.quality
        return (
            f"faults: {kinds or 'none'}; links: loss {quality.loss_rate:.0%}, doubled {quality.duplicate_rate:.0%}, "
            f"reordered {quality.reorder_rate:.0%}{'' if quality.in_order else ', unordered'}; "
            f"clocks off by up to {self.clock_offset_ms} ms, drift {self.drift_ppm} ppm; bursts {self.burst_share:.0%}"
        )


def draw_plan(random: Random, *, without: frozenset[FaultKind] = frozenset()) -> FaultPlan:
    """Draw the faults of one run; those in `without` stay off."""
    healthy = random.random() < _HEALTHY_SHARE
    rates: dict[FaultKind, float] = {}

    def draw(kind: FaultKind) -> None:
        # Both draws are made whatever they decide, so that `without` does not reshuffle the others.
        on, strength = random.random() < _ON_SHARE, random.choice((0.3, 1.0, 1.0, 2.0))
        if on and not healthy and kind not in without:
            rates[kind] = _RATES[kind] * strength

    for kind in _RATES:
        if kind not in _LATER_KINDS:
            draw(kind)
    lossy = random.random() < 0.35 and not healthy
    quality = LinkQuality(
        min_delay_us=random.choice((80, 120, 500, 2_000)),
        mean_extra_us=random.choice((100, 200, 1_000, 5_000)),
        loss_rate=random.choice((0.0, 0.01, 0.05, 0.2)) if lossy else 0.0,
        duplicate_rate=random.choice((0.0, 0.02, 0.2)) if lossy else 0.0,
        reorder_rate=random.choice((0.0, 0.02, 0.2)) if lossy else 0.0,
        in_order=not lossy or random.random() < 0.5,
    )
    clock_offset_ms = 0 if healthy else random.choice((0, 100, 800))
    drift_ppm = 0 if healthy else random.choice((0, 100, 5_000))
    burst_share = random.choice((0.0, 0.0, 0.3, 0.6))
    for kind in _LATER_KINDS:
        draw(kind)
    return FaultPlan(rates, quality, clock_offset_ms, drift_ppm, burst_share)


@final
class FaultInjector:
    """Lets the faults of a plan happen until it is stopped."""

    def __init__(self, cluster: SimulatedCluster, plan: FaultPlan) -> None:
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._plan = plan
        # A stream for each kind: one that is switched off leaves the others as they were.
        self._streams = {kind: self._scheduler.random(f"fault {kind.value}") for kind in FaultKind}
        self._installs = self._scheduler.random("kills while a snapshot is installed")
        self._random = self._scheduler.random("faults")
        self._struck: FaultKind | None = None
        self._stopped = False
        self._cut_until_us: dict[tuple[NodeId, NodeId], int] = {}
        self.counts: dict[str, int] = {}
        self._strikes: dict[FaultKind, Callable[[], bool]] = {
            FaultKind.KILL: self._kill,
            FaultKind.POWER_CUT: self._power_cut,
            FaultKind.POWER_CUT_ALL: self._power_cut_all,
            FaultKind.CRASH_AT_WRITE: self._crash_at_write,
            FaultKind.PAUSE: self._pause,
            FaultKind.SLOW_DISK: self._slow_disk,
            FaultKind.STALLED_DISK: self._stalled_disk,
            FaultKind.STALLED_FLUSH: self._stalled_flush,
            FaultKind.FAILED_SYNC: self._failed_sync,
            FaultKind.FAILED_WRITE: self._failed_write,
            FaultKind.FULL_DISK: self._full_disk,
            FaultKind.BIT_ROT: self._bit_rot,
            FaultKind.WIPE: self._wipe,
            FaultKind.ISOLATE: self._isolate,
            FaultKind.ONE_WAY: self._one_way,
            FaultKind.SPLIT: self._split,
            FaultKind.CLOG: self._clog,
            FaultKind.CLOSE: self._close,
            FaultKind.REFUSE: self._refuse,
            FaultKind.CLIENTS_CUT: self._clients_cut,
            FaultKind.CLOCK_STEP: self._clock_step,
            FaultKind.CLOCK_JUMP: self._clock_jump,
            FaultKind.DRIFT: self._drift,
            FaultKind.TRANSFER: self._transfer,
            FaultKind.MEMBERSHIP: self._membership,
            FaultKind.DEAF: self._deaf,
            FaultKind.MISDIRECTED: self._misdirected,
        }

    def start(self) -> None:
        for kind in self._plan.rates:
            self._later(kind)
        if FaultKind.CRASH_AT_WRITE in self._plan.rates:
            for node in self._cluster.nodes.values():
                node.install_crash_share = _INSTALL_CRASH_SHARE
        if FaultKind.KILL in self._plan.rates:
            for node in self._cluster.nodes.values():
                node.on_install = partial(self._scheduler.after, 1, partial(self._kill_who_fills, node))

    def stop(self) -> None:
        """No fault begins any more; the cluster's `heal` ends those that last."""
        self._stopped = True
        for node in self._cluster.nodes.values():
            node.install_crash_share = 0.0

    def _later(self, kind: FaultKind) -> None:
        mean_us = US_PER_S / self._plan.rates[kind]
        wait_us = int(self._streams[kind].expovariate(1) * mean_us) + 1
        self._scheduler.after(wait_us, lambda: self._strike(kind))

    def _strike(self, kind: FaultKind) -> None:
        if self._stopped:
            return
        self._later(kind)
        self._do(kind)

    def _do(self, kind: FaultKind) -> None:
        self._random, self._struck = self._streams[kind], kind
        if self._stopped or not self._strikes[kind]():
            return
        self.counts[kind.value] = self.counts.get(kind.value, 0) + 1
        self._scheduler.note("fault", kind.value)
        if self._random.random() < self._plan.burst_share:
            following = self._random.choice(list(self._plan.rates))
            self._scheduler.after(self._random.randrange(US_PER_S), lambda: self._do(following))

    # Draws.

    def _duration_us(self, low_ms: int, high_ms: int) -> int:
        """Mostly short, now and then long."""
        span = (high_ms - low_ms) * US_PER_MS
        return low_ms * US_PER_MS + int(span * self._random.random() ** 3)

    def _around_an_election_us(self) -> int:
        """Short blinks, and as often as not so long that somebody else is elected meanwhile."""
        if self._random.random() < 0.4:
            return self._duration_us(50, 1_500)
        return self._random.randrange(1_500, 6_000) * US_PER_MS

    def _any_node(self) -> SimulatedNode:
        """A node, and as often as not one that leads: that is where it hurts."""
        node = self._cluster.nodes[self._random.choice(self._cluster.node_ids)]
        leaders = [self._cluster.leader_of(group) for group in self._cluster.groups]
        leader = self._random.choice(leaders)
        chosen = node if leader is None or self._random.random() < 0.5 else leader
        if self._struck is not None:
            self._cluster.situations.on_strike(self._struck.value, chosen)
        return chosen

    def _running_node(self) -> SimulatedNode | None:
        node = self._any_node()
        if node.is_running:
            return node
        running = [node for node in self._cluster.nodes.values() if node.is_running]
        return self._random.choice(running) if running else None

    def _two_nodes(self) -> tuple[NodeId, NodeId] | None:
        if len(self._cluster.node_ids) < 2:
            return None
        left, right = self._random.sample(self._cluster.node_ids, 2)
        return left, right

    # Processes and machines.

    def _restart_later(self, node: SimulatedNode, delay_us: int) -> None:
        if self._random.random() < _RECOVERY_CRASH_SHARE and not node.is_running:
            node.crash_at_change(self._random.randrange(1, 25))
        self._scheduler.after(delay_us, lambda: node.start() if not node.is_running else None)

    def _kill(self) -> bool:
        node = self._running_node()
        if node is None:
            return False
        node.kill()
        self._restart_later(node, self._duration_us(50, 6_000))
        return True

    def _kill_who_fills(self, node: SimulatedNode) -> None:
        self._random, self._struck = self._installs, FaultKind.KILL
        if self._stopped or self._random.random() >= _INSTALL_KILL_SHARE:
            return
        for group in self._cluster.groups:
            leader = self._cluster.leader_of(group)
            if node.is_filling(group) and leader is not None and leader.is_running:
                leader.kill()
                self._restart_later(leader, self._duration_us(50, 6_000))

    def _power_cut(self) -> bool:
        node = self._running_node()
        if node is None:
            return False
        node.cut_power()
        self._restart_later(node, self._duration_us(200, 8_000))
        return True

    def _power_cut_all(self) -> bool:
        for node in self._cluster.nodes.values():
            if node.is_running:
                node.cut_power()
            self._restart_later(node, self._duration_us(200, 3_000))
        return True

    def _crash_at_write(self) -> bool:
        node = self._running_node()
        if node is None:
            return False
        node.crash_at_change(self._random.randrange(1, 12))
        return True

    def _pause(self) -> bool:
        node = self._running_node()
        if node is None:
            return False
        node.pause(self._around_an_election_us())
        return True

    # Disks.

    def _slow_disk(self) -> bool:
        node = self._any_node()
        node.slow_disk(self._random.choice((10, 50, 200)) * US_PER_MS)
        self._scheduler.after(self._duration_us(500, 8_000), lambda: node.slow_disk(0))
        return True

    def _stalled_disk(self) -> bool:
        # Now and then so long that somebody else has to lead meanwhile.
        is_long = self._random.random() < 0.4
        self._any_node().stall_disk(self._duration_us(7_000, 14_000) if is_long else self._duration_us(500, 8_000))
        return True

    def _stalled_flush(self) -> bool:
        self._any_node().stall_disk(self._duration_us(500, 15_000), commits=False)
        return True

    def _failed_sync(self) -> bool:
        node = self._running_node()
        return node is not None and node.fail_next_sync(dropped=self._random.random() < 0.3)

    def _failed_write(self) -> bool:
        node = self._running_node()
        return node is not None and node.fail_next_write()

    def _full_disk(self) -> bool:
        node = self._any_node()
        node.fill_disk(leave_bytes=self._random.randrange(0, 40_000))
        is_long = self._random.random() < 0.4
        for_us = self._duration_us(4_000, 9_000) if is_long else self._duration_us(500, 4_000)
        self._scheduler.after(for_us, node.free_disk)
        return True

    def _bit_rot(self) -> bool:
        node = self._any_node()
        if not self._cluster.may_lose_data_on(node):
            return False
        node.rot_bits(self._random)
        return True

    def _misdirected(self) -> bool:
        node = self._any_node()
        if not self._cluster.may_lose_data_on(node):
            return False
        if self._random.random() < 0.5:
            node.misdirect_flush(self._random.choice((-4096, 512, 4096)))
        else:
            node.misplace_commits(self._random)
        return True

    def _wipe(self) -> bool:
        node = self._any_node()
        if not self._cluster.may_lose_data_on(node):
            return False
        self._cluster.wipe(node, restart_after_us=self._duration_us(200, 4_000))
        return True

    # Network.

    def _isolate(self) -> bool:
        victim = self._any_node().node
        others = [node for node in self._cluster.node_ids if node != victim]
        self._cut_for([(victim, other) for other in others] + [(other, victim) for other in others], Cut.LOST)
        return bool(others)

    def _one_way(self) -> bool:
        pair = self._two_nodes()
        if pair is None:
            return False
        self._cut_for([pair], Cut.LOST)
        return True

    def _split(self) -> bool:
        nodes = list(self._cluster.node_ids)
        if len(nodes) < 2:
            return False
        self._random.shuffle(nodes)
        at = self._random.randrange(1, len(nodes))
        left, right = nodes[:at], nodes[at:]
        both = [(one, other) for one in left for other in right] + [(one, other) for one in right for other in left]
        # Now and then a bridge remains: one pair of the two sides still sees each other.
        if self._random.random() < 0.3:
            bridge = self._random.choice(both)
            both = [link for link in both if link not in (bridge, bridge[::-1])]
        self._cut_for(both, Cut.LOST)
        return True

    def _deaf(self) -> bool:
        victim = self._any_node().node
        others = [node for node in self._cluster.node_ids if node != victim]
        is_deaf = self._random.random() < 0.6
        links = [(other, victim) if is_deaf else (victim, other) for other in others]
        # Long enough for somebody to notice that a leader is of no use.
        self._cut_for(links, Cut.LOST, for_us=self._random.randrange(3_000, 16_000) * US_PER_MS)
        return bool(others)

    def _clog(self) -> bool:
        pair = self._two_nodes()
        if pair is None:
            return False
        self._cut_for([pair], Cut.HELD)
        return True

    def _cut_for(self, links: list[tuple[NodeId, NodeId]], how: Cut, *, for_us: int | None = None) -> None:
        network = self._cluster.network
        until_us = self._scheduler.now_us + (self._around_an_election_us() if for_us is None else for_us)
        for link in links:
            network.cut(*link, how)
            self._cut_until_us[link] = max(until_us, self._cut_until_us.get(link, 0))

        def open_again() -> None:
            for link in links:
                # Another cut of the same link may go on for longer.
                if self._cut_until_us[link] <= self._scheduler.now_us:
                    network.cut(*link, Cut.OPEN)

        self._scheduler.at(until_us, open_again)

    def _close(self) -> bool:
        pair = self._two_nodes()
        if pair is None:
            return False
        self._cluster.network.close(*pair)
        return True

    def _refuse(self) -> bool:
        pair = self._two_nodes()
        if pair is None:
            return False
        self._cluster.network.refuse(*pair)
        self._scheduler.after(self._duration_us(200, 6_000), lambda: self._cluster.network.allow(*pair))
        return True

    def _clients_cut(self) -> bool:
        node = self._any_node().node
        self._cluster.cut_clients(node)
        self._scheduler.after(self._duration_us(200, 5_000), lambda: self._cluster.allow_clients(node))
        return True

    # Clocks.

    def _clock_step(self) -> bool:
        self._any_node().clock.jump(self._random.choice((-1, 1)) * self._random.randrange(10, 5_000_000))
        return True

    def _clock_jump(self) -> bool:
        self._any_node().clock.jump(self._random.choice((-1, 1, 1)) * 15 * DAY_MS)
        return True

    def _drift(self) -> bool:
        self._any_node().clock.set_drift(self._cluster.speed_ppm(self._random.randrange(-10_000, 10_000)))
        return True

    # Operators.

    def _transfer(self) -> bool:
        return self._cluster.transfer_leadership(self._random)

    def _membership(self) -> bool:
        return self._cluster.move_replica(self._random)
