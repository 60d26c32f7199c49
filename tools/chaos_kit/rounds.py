"""One round: a new cluster, clients, faults one after another, then peace, and the verdict."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import IO, TYPE_CHECKING, final

import trio

from logbroker.ids import META_GROUP
from tools.chaos_kit.disks import DiskKind, disks
from tools.chaos_kit.drive import wait_mended, watch_rot
from tools.chaos_kit.faults import Arena, Fault, FaultError, Strike
from tools.chaos_kit.features.judge import judge_features
from tools.chaos_kit.features.queues import QUEUES
from tools.chaos_kit.features.stage import Stage
from tools.chaos_kit.features.workload import FeatureWorkload
from tools.chaos_kit.judge import Verdict, judge
from tools.chaos_kit.logs import LogsError, agreed_log, read_logs
from tools.chaos_kit.nodes import NodeError, chaos_cluster, configure
from tools.chaos_kit.record import Outcome, Record, Sent
from tools.chaos_kit.shim import Shim
from tools.chaos_kit.workload import Workload, WorkloadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from logbroker.entry import Entry
    from tools.chaos_kit.logs import NodeLogs
    from tools.chaos_kit.network import Network
    from tools.chaos_kit.nodes import ChaosNode, Partition

# How long a healed cluster may take for each of: being whole, draining, and reading all of it once more.
_PEACE_S = 60.0
# A client that lost its connections tries again within a second or two.
_PENDING_S = 10.0
_PROGRESS_S = 10.0
# Log time may step by so much when another node leads: what the nodes' clocks may differ by, where they do.
_SKEW_S, _CLOCK_SKEW_S = 0.1, 1.2


@final
@dataclass(frozen=True, slots=True)
class RoundOptions:
    """What one round is made of."""

    number: int
    seed: int
    seconds: float
    disk: DiskKind
    faults: tuple[Fault, ...]
    workload: WorkloadOptions = field(default_factory=WorkloadOptions)


@final
@dataclass(slots=True)
class RoundResult:
    """What one round showed."""

    options: RoundOptions
    verdict: Verdict
    strikes: list[Strike]
    # Seconds from a strike at a leader to the next confirmed message of what it led, by kind.
    fail_overs: dict[str, list[float]]
    longest_stall_s: float
    longest_stall: str
    measures: dict[str, list[float]]


async def run_round(
    options: RoundOptions,
    folder: Path,
    network: Network,
    node_numbers: Sequence[int],
    *,
    library: Path | None,
    log: IO[bytes],
    tell: Callable[[str], None],
) -> RoundResult:
    """Run it in an empty folder, which holds all that it leaves."""
    random = Random(options.seed)
    record = Record()
    stage = Stage([], Random(options.seed + 2))
    verdict = Verdict()
    measures: dict[str, list[float]] = {}
    with ExitStack() as stack:
        made = stack.enter_context(disks(options.disk, folder, node_numbers, log=log))
        nodes = configure(folder, network, made.data_dirs, insecure=network.can_shape)
        shims: dict[int, Shim] = {}
        if library is not None:
            for number, node in nodes.items():
                shim = shims[number] = Shim(folder / f"shim{number}")
                stack.callback(shim.close)
                node.environment |= shim.environment(library)
        logs: dict[Partition, list[Entry]] = {}
        arena: Arena | None = None
        try:
            async with AsyncExitStack() as running:
                cluster = await running.enter_async_context(chaos_cluster(nodes, network))
                arena = Arena(cluster, made, shims, random, record, tell)
                stage.urls = cluster.urls
                places = await _live(options, arena, record, stage, verdict, network)
            logs = _collect(nodes, places, verdict)
        except BaseExceptionGroup as group:
            known, others = group.split(NodeError)
            if others is not None or known is None:
                raise
            verdict.stuck += 1
            verdict.findings += [str(error) for error in _leaves(known)]
        except NodeError as error:
            verdict.stuck += 1
            verdict.find(str(error))
        if logs:
            skew_s = _CLOCK_SKEW_S if arena and any(one.kind == "clock" for one in arena.strikes) else _SKEW_S
            named = {queue.name for queue in QUEUES}
            plain = {place: entries for place, entries in logs.items() if place[0] not in named}
            judge(record, plain, verdict, skew_s=skew_s)
            measures |= judge_features(stage.told, logs, arena.strikes if arena else [], verdict, skew_s=skew_s)
        strikes = arena.strikes if arena is not None else []
        if arena is not None:
            verdict.findings += arena.findings
            measures |= arena.measures
    stall_s, stall = _longest_stall(record, strikes)
    return RoundResult(options, verdict, strikes, fail_overs(record, strikes), stall_s, stall, measures)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _live(
    options: RoundOptions, arena: Arena, record: Record, stage: Stage, verdict: Verdict, network: Network
) -> dict[int, Partition]:
    """From the first client to the graceful end of the nodes; gives the partition of each group."""
    workload = Workload(arena.cluster.urls, Random(options.seed + 1), record, options.workload)
    features = FeatureWorkload(stage)
    await workload.set_up()
    await features.set_up()
    await arena.cluster.wait_whole()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workload.run)
        nursery.start_soon(features.run)
        nursery.start_soon(_progress, options, arena, record)
        nursery.start_soon(watch_rot, arena)
        await trio.sleep(1.0)
        await _strike(options, arena)
        await _heal(arena, network)
        workload.is_producing = stage.is_producing = False
        workload.is_calm = stage.is_calm = True
        try:
            await arena.cluster.wait_whole(timeout_s=_PEACE_S)
        except NodeError as error:
            verdict.stuck += 1
            verdict.find(f"after healing: {error}")
        for drained in (workload.wait_drained, features.wait_drained):
            left = await drained(timeout_s=_PEACE_S)
            if left:
                verdict.stuck += 1
                verdict.find(f"not drained {_PEACE_S:.0f} s after healing: {left}")
        pending = await _pending(record)
        if pending:
            verdict.stuck += len(pending)
            ages = ", ".join(
                f"{sent.sender}.{sent.number} {trio.current_time() - sent.started_s:.0f} s" for sent in pending
            )
            verdict.find(f"{len(pending)} sends without an answer {_PENDING_S:.0f} s after all was whole: {ages}")
        nursery.cancel_scope.cancel()
    await wait_mended(arena)
    unread = await workload.read_all(timeout_s=_PEACE_S)
    if unread:
        verdict.stuck += 1
        verdict.find(unread)
    await arena.cluster.wait_whole(timeout_s=_PEACE_S)
    places = {
        row["group"]: (row["queue"], row["partition"])
        for page in (await arena.cluster.statuses()).values()
        for row in page["groups"]
        if row["group"] != META_GROUP and row["queue"] is not None
    }
    verdict.findings += await arena.cluster.stop()
    return places


async def _pending(record: Record) -> list[Sent]:
    """The sends that have no answer, and get none soon."""
    pending: list[Sent] = []
    with trio.move_on_after(_PENDING_S):
        while True:
            pending = [sent for sent in record.sent if sent.outcome is Outcome.PENDING]
            if not pending:
                break
            await trio.sleep(0.1)
    return pending


async def _strike(options: RoundOptions, arena: Arena) -> None:
    until = trio.current_time() + options.seconds
    weights = [fault.weight for fault in options.faults]
    while trio.current_time() < until:
        fault = arena.random.choices(options.faults, weights)[0]
        try:
            await fault.run(arena)
        except FaultError as error:
            arena.findings.append(f"{fault.name}: {error}")
        arena.is_whole = arena.random.random() < 0.6
        if arena.is_whole:
            # Else the next one meets a cluster that has not recovered.
            await arena.cluster.wait_whole(timeout_s=_PEACE_S)
        await trio.sleep(arena.between(0.0, 1.0))


async def _heal(arena: Arena, network: Network) -> None:
    if network.can_shape:
        await network.shape({})
    for shim in arena.shims.values():
        shim.heal()
    arena.disks.heal()


async def _progress(options: RoundOptions, arena: Arena, record: Record) -> None:
    started_s = trio.current_time()
    while True:
        await trio.sleep(_PROGRESS_S)
        confirmed = sum(len(times) for times in record.confirms.values())
        arena.tell(
            f"round {options.number}, {trio.current_time() - started_s:.0f} s: {len(arena.strikes)} faults, "
            f"{confirmed} confirmed, {len(record.delivered)} leases"
        )


def _collect(
    nodes: dict[int, ChaosNode], places: dict[int, Partition], verdict: Verdict
) -> dict[Partition, list[Entry]]:
    """The agreed log of each partition, from the disks of the nodes."""
    by_node: dict[int, NodeLogs] = {}
    for number, node in nodes.items():
        try:
            by_node[number] = read_logs(node.config_file)
        except LogsError as error:
            verdict.find(str(error))
    found = {}
    for group, place in places.items():
        held = {number: logs[group] for number, logs in by_node.items() if group in logs}
        try:
            found[place] = agreed_log(group, held, size=len(nodes))
        except LogsError as error:
            verdict.find(str(error))
    return found


def fail_overs(record: Record, strikes: Sequence[Strike]) -> dict[str, list[float]]:
    """How long each partition was without a confirmation after its leader was struck, by kind of strike.

    Counts to the first message confirmed that was also sent after the strike: what was under way might have been
    confirmed before it. Only of strikes that met a whole cluster, and where none followed before its end: what several
    do together is told by the longest stall.
    """
    found: dict[str, list[float]] = {}
    for strike, following in zip(strikes, [*strikes[1:], None], strict=False):
        for place in strike.led if strike.met_whole else ():
            confirms = record.confirms.get(place, [])
            after = (done_s for started_s, done_s in confirms if started_s >= strike.at_s)
            done_s = next(after, None)
            if done_s is not None and (following is None or done_s < following.at_s):
                found.setdefault(strike.kind, []).append(done_s - strike.at_s)
    return found


def _longest_stall(record: Record, strikes: Sequence[Strike]) -> tuple[float, str]:
    """The longest time between two confirmations of one partition, and what struck meanwhile."""
    longest_s, said = 0.0, ""
    for place, confirms in record.confirms.items():
        for (_, before_s), (_, after_s) in pairwise(confirms):
            if after_s - before_s > longest_s:
                longest_s = after_s - before_s
                kinds = [one.kind for one in strikes if one.at_s <= after_s and (one.healed_s or after_s) >= before_s]
                said = f"{place[0]}/{place[1]} during {', '.join(kinds) or 'no fault'}"
    return longest_s, said
