"""What can be done to nodes, networks, disks and clocks. Each fault strikes, lasts, and is healed by itself."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import trio

from tools.chaos_kit.disks import DiskKind
from tools.chaos_kit.drive import Rot, drive_full, flip_segments, read_again, wait_taken
from tools.chaos_kit.network import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from random import Random

    from tools.chaos_kit.disks import Disks
    from tools.chaos_kit.network import Rules
    from tools.chaos_kit.nodes import ChaosCluster, ChaosNode, Partition
    from tools.chaos_kit.record import Record
    from tools.chaos_kit.shim import Shim

_DAY_S = 86_400.0
# A node whose sync failed must have ended by then; a stopped or cut leader must long have a successor.
_END_S = 10.0
_FILL_S = 60.0


class FaultError(Exception):
    """A fault was not borne as it must be."""


@final
@dataclass(slots=True)
class Strike:
    """One fault that happened. Times are of the monotonic clock, in seconds."""

    kind: str
    nodes: tuple[int, ...]
    at_s: float
    # What the struck nodes led when it struck, and so what has to find another leader.
    led: tuple[Partition, ...] = ()
    healed_s: float = 0.0
    # It met a cluster that had got over all before it.
    met_whole: bool = True


@final
@dataclass(slots=True)
class Arena:
    """What faults work on."""

    cluster: ChaosCluster
    disks: Disks
    shims: Mapping[int, Shim]
    random: Random
    record: Record
    tell: Callable[[str], None]
    strikes: list[Strike] = field(default_factory=list)
    is_whole: bool = True
    findings: list[str] = field(default_factory=list)
    # Bits that were flipped and are not known to be mended; all on one node.
    rot: list[Rot] = field(default_factory=list)
    # Answers to questions that faults ask on their way, such as how soon a full disk was used again.
    measures: dict[str, list[float]] = field(default_factory=dict)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random.random()

    async def choose(self, *, leader_share: float = 0.75) -> int:
        """A node, mostly one that leads something."""
        leaders = sorted((await self.cluster.leaders()).values())
        if leaders and self.random.random() < leader_share:
            return self.random.choice(leaders)
        return self.random.choice(sorted(self.cluster.nodes))

    async def aim(self, kind: str, *numbers: int) -> Strike:
        """Note what a strike at these nodes would hit; set `at_s` when it does."""
        led = tuple(place for place, leader in (await self.cluster.leaders()).items() if leader in numbers)
        strike = Strike(kind, numbers, trio.current_time(), led, met_whole=self.is_whole)
        self.strikes.append(strike)
        return strike

    def measure(self, name: str, value: float) -> None:
        self.measures.setdefault(name, []).append(value)

    def node(self, number: int) -> ChaosNode:
        return self.cluster.nodes[number]

    async def start(self, *numbers: int) -> None:
        for number in numbers:
            self.node(number).start()
        for number in numbers:
            await self.cluster.wait_ready(number)


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One kind. `needs` names a mechanism, or is empty; `weight` is how often it is drawn beside others."""

    name: str
    run: Callable[[Arena], Awaitable[None]]
    needs: str = ""
    disk: DiskKind | None = None
    weight: float = 1.0


# Processes.


async def _kill(arena: Arena) -> None:
    await _kill_nodes(arena, "kill", await arena.choose())


async def _kill_majority(arena: Arena) -> None:
    count = len(arena.cluster.nodes) // 2 + 1
    await _kill_nodes(arena, "kill_majority", *arena.random.sample(sorted(arena.cluster.nodes), count))


async def _kill_all(arena: Arena) -> None:
    await _kill_nodes(arena, "kill_all", *arena.cluster.nodes)


async def _kill_nodes(arena: Arena, kind: str, *numbers: int) -> None:
    strike = await arena.aim(kind, *numbers)
    strike.at_s = trio.current_time()
    for number in numbers:
        arena.node(number).signal(signal.SIGKILL)
    for number in numbers:
        await arena.node(number).wait_end()
    await trio.sleep(arena.between(0.0, 1.2))
    await arena.start(*numbers)
    strike.healed_s = trio.current_time()


async def _stop(arena: Arena) -> None:
    number = await arena.choose()
    strike = await arena.aim("stop", number)
    strike.at_s = trio.current_time()
    arena.node(number).signal(signal.SIGSTOP)
    await trio.sleep(arena.between(0.5, 6.0))
    arena.node(number).signal(signal.SIGCONT)
    strike.healed_s = trio.current_time()


# Networks.


async def _shaped(arena: Arena, strike: Strike, rules: Rules, hold_s: float) -> None:
    await arena.cluster.network.shape(rules)
    strike.at_s = trio.current_time()
    await trio.sleep(hold_s)
    await arena.cluster.network.shape({})
    strike.healed_s = trio.current_time()


def _hosts(arena: Arena, *, clients: bool = True) -> list[int]:
    return [*arena.cluster.nodes, *([CLIENTS] if clients else [])]


async def _cut(arena: Arena) -> None:
    """A node loses everybody; sometimes only its peers, and clients still reach it."""
    number = await arena.choose()
    strike = await arena.aim("cut", number)
    others = [host for host in _hosts(arena, clients=arena.random.random() < 0.6) if host != number]
    lost = {"drop": 1.0}
    rules = {(number, host): lost for host in others} | {(host, number): lost for host in others}
    await _shaped(arena, strike, rules, arena.between(2.0, 4.5))


async def _one_way(arena: Arena) -> None:
    """What a node says is lost, or what it should hear."""
    number = await arena.choose()
    strike = await arena.aim("one_way", number)
    others = [host for host in _hosts(arena, clients=False) if host != number]
    if arena.random.random() < 0.5:
        rules: Rules = {(number, host): {"drop": 1.0} for host in others}
    else:
        rules = {(host, number): {"drop": 1.0} for host in others}
    await _shaped(arena, strike, rules, arena.between(2.0, 4.5))


async def _link_cut(arena: Arena) -> None:
    """Two nodes lose each other; the others hear both."""
    number = await arena.choose()
    other = arena.random.choice([host for host in arena.cluster.nodes if host != number])
    # Not a fail-over by itself: whoever leads may go on with the others.
    strike = await arena.aim("link_cut", number)
    strike.led = ()
    rules: Rules = {(number, other): {"drop": 1.0}, (other, number): {"drop": 1.0}}
    await _shaped(arena, strike, rules, arena.between(2.0, 4.5))


def _everywhere(arena: Arena, rule: dict[str, float]) -> Rules:
    hosts = _hosts(arena)
    return {(source, target): rule for source in hosts for target in hosts if source != target}


async def _loss(arena: Arena) -> None:
    strike = await arena.aim("loss")
    rule = {"drop": arena.between(0.02, 0.25), "double": 0.05, "spoil": 0.01}
    await _shaped(arena, strike, _everywhere(arena, rule), arena.between(3.0, 6.0))


async def _delay(arena: Arena) -> None:
    strike = await arena.aim("delay")
    rule = {"delay_ms": arena.between(5.0, 80.0), "jitter_ms": arena.between(0.0, 60.0)}
    await _shaped(arena, strike, _everywhere(arena, rule), arena.between(3.0, 6.0))


# Syncs and clocks.


async def _sync_fail(arena: Arena) -> None:
    number = await arena.choose()
    shim = arena.shims[number]
    strike = await arena.aim("sync_fail", number)
    failed_before = shim.failed_count
    strike.at_s = trio.current_time()
    shim.fail_syncs()
    try:
        with trio.move_on_after(_END_S) as patience:
            # A process of another's making tells nobody when it ends.
            while arena.node(number).is_running:  # noqa: ASYNC110
                await trio.sleep(0.02)
        if patience.cancelled_caught and shim.failed_count > failed_before:
            arena.findings.append(
                f"node {number} lives {_END_S:.0f} s after {shim.failed_count - failed_before} failed syncs"
            )
    finally:
        shim.heal()
    await arena.node(number).kill()
    await arena.start(number)
    strike.healed_s = trio.current_time()


async def _sync_slow(arena: Arena) -> None:
    number = await arena.choose()
    strike = await arena.aim("sync_slow", number)
    delay_ms = arena.random.choice((20.0, 200.0, 2_000.0))
    if delay_ms < 1_000:
        # Nobody has to leave for that.
        strike.led = ()
    strike.at_s = trio.current_time()
    arena.shims[number].slow_syncs(delay_ms)
    await trio.sleep(arena.between(3.0, 7.0))
    arena.shims[number].heal()
    strike.healed_s = trio.current_time()


async def _clock(arena: Arena) -> None:
    number = await arena.choose()
    strike = await arena.aim("clock", number)
    offset_s = arena.random.choice((0.4, 5.0, 3_600.0, 15 * _DAY_S)) * arena.random.choice((-1, 1))
    strike.at_s = trio.current_time()
    arena.shims[number].shift_clock(offset_s)
    await trio.sleep(arena.between(2.0, 5.0))
    if arena.random.random() < 0.3:
        # It starts with the wrong time.
        await arena.node(number).kill()
        arena.node(number).start()
        await trio.sleep(arena.between(2.0, 4.0))
    arena.shims[number].heal()
    strike.healed_s = trio.current_time()
    await arena.cluster.wait_ready(number)


# Disks.


async def _power(arena: Arena) -> None:
    await _cut_power(arena, "power", await arena.choose())


async def _power_all(arena: Arena) -> None:
    await _cut_power(arena, "power_all", *arena.cluster.nodes)


async def _cut_power(arena: Arena, kind: str, *numbers: int) -> None:
    strike = await arena.aim(kind, *numbers)
    strike.at_s = trio.current_time()
    for number in numbers:
        arena.node(number).signal(signal.SIGKILL)
    for number in numbers:
        await arena.node(number).wait_end()
    for number in numbers:
        await arena.disks.cut_power(number, arena.random)
    await arena.start(*numbers)
    strike.healed_s = trio.current_time()


async def _disk_full(arena: Arena) -> None:
    """Fill the disks of one node, or of so many that produce has to be refused while all else goes on."""
    majority = len(arena.cluster.nodes) // 2 + 1
    count = arena.random.choice((1, majority, len(arena.cluster.nodes)))
    numbers = arena.random.sample(sorted(arena.cluster.nodes), count)
    strike = await arena.aim("disk_full", *numbers)
    strike.led = ()
    strike.at_s = trio.current_time()
    for number in numbers:
        await arena.disks.fill(number)
    try:
        await drive_full(arena, must_refuse=count >= majority)
    finally:
        for number in numbers:
            await arena.disks.free(number)
    strike.healed_s = trio.current_time()
    await wait_taken(arena, strike.healed_s)


async def _wipe(arena: Arena) -> None:
    """A node loses its disk; it must be filled as a learner before it votes."""
    await arena.cluster.wait_whole()
    # Never two nodes that have lost something.
    number = next((rot.node for rot in arena.rot), None) or await arena.choose()
    arena.rot.clear()
    strike = await arena.aim("wipe", number)
    wanted = {
        row["group"]: row["commit"] for page in (await arena.cluster.statuses()).values() for row in page["groups"]
    }
    strike.at_s = trio.current_time()
    await arena.node(number).kill()
    await arena.disks.wipe(number)
    arena.node(number).start()
    with trio.move_on_after(_FILL_S) as patience:
        # The page is all there is to ask.
        while await _is_filling(arena, number, wanted):  # noqa: ASYNC110
            await trio.sleep(0.05)
    if patience.cancelled_caught:
        arena.findings.append(f"node {number} has no vote everywhere {_FILL_S:.0f} s after its disk was lost")
    else:
        arena.measure("wiped disk filled", trio.current_time() - strike.at_s)
    await arena.cluster.wait_whole()
    strike.healed_s = trio.current_time()


async def _is_filling(arena: Arena, number: int, wanted: Mapping[int, int]) -> bool:
    """Whether a wiped node is still without its vote in some group; it must have none in one that it has not filled."""
    pages = await arena.cluster.statuses()
    own = pages.pop(number, None)
    if own is None or not pages:
        return True
    rows = {row["group"]: row for row in own["groups"]}
    voters = {row["group"]: row["voters"] for page in pages.values() for row in page["groups"] if row["is_leader"]}
    is_filling = False
    for group, commit in wanted.items():
        row = rows.get(group)
        if row is None or row["replica"] not in voters.get(group, ()):
            is_filling = True
        elif row["fill_percent"] is not None or row["applied"] < commit:
            arena.findings.append(
                f"node {number} votes in group {group} after its disk was lost, and holds {row['applied']} of {commit}"
            )
    return is_filling


async def _rot(arena: Arena) -> None:
    """Bits of what a running node has stored flip; they are to be repaired from the others, without a restart.

    Whoever reads finds some; the node's scrubber finds the rest in its time, for which the end of the round waits.
    """
    await arena.cluster.wait_whole()
    number = next((rot.node for rot in arena.rot), None) or await arena.choose()
    strike = await arena.aim("rot", number)
    strike.led = ()
    arena.rot += await trio.to_thread.run_sync(flip_segments, arena.node(number), arena.random)
    strike.at_s = trio.current_time()
    await read_again(arena)
    await arena.cluster.wait_whole()
    strike.healed_s = trio.current_time()


FAULTS: tuple[Fault, ...] = (
    Fault("kill", _kill, weight=4.0),
    Fault("kill_majority", _kill_majority, weight=0.5),
    Fault("kill_all", _kill_all, weight=0.5),
    Fault("stop", _stop),
    Fault("cut", _cut, needs="network"),
    Fault("one_way", _one_way, needs="network"),
    Fault("link_cut", _link_cut, needs="network", weight=0.5),
    Fault("loss", _loss, needs="network", weight=0.5),
    Fault("delay", _delay, needs="network", weight=0.5),
    Fault("sync_fail", _sync_fail, needs="shim"),
    Fault("sync_slow", _sync_slow, needs="shim", weight=0.5),
    Fault("clock", _clock, needs="shim"),
    Fault("disk_full", _disk_full, needs="tmpfs", disk=DiskKind.SMALL, weight=4.0),
    Fault("wipe", _wipe, disk=DiskKind.PLAIN, weight=0.5),
    Fault("rot", _rot, disk=DiskKind.PLAIN, weight=0.5),
    Fault("power", _power, needs="fuse", disk=DiskKind.POWER, weight=2.0),
    Fault("power_all", _power_all, needs="fuse", disk=DiskKind.POWER, weight=4.0),
)
