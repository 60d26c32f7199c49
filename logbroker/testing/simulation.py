"""One run from one seed: a cluster, its clients, its faults, and at the end the demand that all is well again."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from time import process_time
from typing import TYPE_CHECKING, final

from logbroker.ids import GroupId
from logbroker.node.requests import StateRequest
from logbroker.partition.breaker import BreakerPolicy
from logbroker.partition.decide import DUE_BEFORE_RETENTION_MS
from logbroker.partition.failures import NO_POLICY, FailurePolicy
from logbroker.partition.limits import NO_LIMITS, SizeLimits
from logbroker.partition.ordering import NO_ORDER, OrderPolicy, order_policy
from logbroker.partition.retention import MAX_AGE_MS
from logbroker.testing.checkers import compare_states, machine_of
from logbroker.testing.cluster import ClusterOptions, SimulatedCluster
from logbroker.testing.faults import FaultInjector, FaultKind, FaultPlan, draw_plan
from logbroker.testing.moves_model import check_moves
from logbroker.testing.network import LinkQuality
from logbroker.testing.node import NodeOptions, quick_engine, small_store
from logbroker.testing.scheduler import US_PER_MS, US_PER_S, Scheduler
from logbroker.testing.violation import Violation, broken
from logbroker.testing.workload import Ledger, Workload, WorkloadProfile

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from logbroker.testing.model import PartitionModel

_LEADER_WITHIN_US = 15 * US_PER_S
_DRAINED_WITHIN_US = 45 * US_PER_S
_ANSWERED_WITHIN_US = 15 * US_PER_S
_POLLS_END_US = 4 * US_PER_S
_LOOK_US = 200 * US_PER_MS


LINKS, CLOCKS, BURSTS = "bad links", "clock errors", "bursts"
OPERATOR, GROUPS, PRODUCERS, CONSUMERS = "operator", "extra groups", "more producers", "more consumers"
MISBEHAVIOUR, LARGE_VALUES, VANDAL, WATCHER = "misbehaviour", "large values", "vandal", "watcher"
AGES, BOUNDS, WINDOWS = "time to live", "bounds", "rewind windows"
ORDER = "order"
DELAYS = "delayed batches"
IDS = "ids"
PARTS = (
    LINKS,
    CLOCKS,
    BURSTS,
    OPERATOR,
    GROUPS,
    PRODUCERS,
    CONSUMERS,
    MISBEHAVIOUR,
    LARGE_VALUES,
    VANDAL,
    WATCHER,
    AGES,
    BOUNDS,
    WINDOWS,
    ORDER,
    DELAYS,
    IDS,
)
"""What can be left out of a run, beside the kinds of faults."""


@final
@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run is asked to be; whatever is None is drawn from the seed."""

    seconds: int = 60
    node_count: int = 3
    group_count: int | None = None
    clock_speed: int | None = None
    plan: FaultPlan | None = None
    profile: WorkloadProfile | None = None
    without: frozenset[str] = frozenset()
    """What is left out of what the seed would draw: kinds of faults, and parts of `PARTS`."""


@final
@dataclass(slots=True)
class Result:
    """How a run went. `failure` is empty where every promise was kept."""

    seed: int
    failure: str = ""
    rule: str = ""
    trace: list[str] = field(default_factory=list)
    digest: str = ""
    simulated_us: int = 0
    cpu_s: float = 0.0
    events: int = 0
    plan: str = ""
    situations: dict[str, int] = field(default_factory=dict)


@final
class Simulation:
    """One run. Made from the seed alone; `run` may be called once."""

    def __init__(self, seed: int, options: RunOptions) -> None:
        self.scheduler = Scheduler(seed)
        self._options = options
        self._seconds = options.seconds
        random = self.scheduler.random("shape")
        kinds = frozenset(kind for kind in FaultKind if kind.value in options.without)
        plan = options.plan or draw_plan(self.scheduler.random("plan"), without=kinds)
        self.plan = _simpler_plan(plan, options.without)
        limits = NO_LIMITS if BOUNDS in options.without else draw_limits(self.scheduler.random("size limits"))
        max_age_ms = 0 if AGES in options.without else draw_max_age_ms(self.scheduler.random("max age"))
        drawn = draw_delays(draw_profile(random), self.scheduler.random("delays"))
        ids = self.scheduler.random("ids")
        drawn = options.profile or replace(drawn, id_senders=ids.choice((0, 1, 2, 3)))
        profile = _simpler_profile(drawn, options.without)
        if max_age_ms:
            # What would be dead before it is due is refused.
            most_ms = max_age_ms - DUE_BEFORE_RETENTION_MS
            delay_share = profile.delay_share if most_ms > 1 else 0.0
            profile = replace(profile, delay_share=delay_share, max_delay_ms=min(profile.max_delay_ms, most_ms))
        if limits.max_messages and not limits.drops_oldest:
            # Groups that nobody reads would leave it full for ever.
            profile = replace(profile, tidies_groups=True)
        group_count = options.group_count or random.choice((1, 1, 2))
        self._order = NO_ORDER if ORDER in options.without else draw_order(self.scheduler.random("order"))
        if self._order.by_key:
            profile = replace(profile, key_count=self.scheduler.random("keys").choice((1, 3, 10)))
        self.cluster = SimulatedCluster(
            self.scheduler,
            ClusterOptions(
                node_count=options.node_count,
                group_count=group_count,
                node=replace(
                    draw_node(random),
                    failures=draw_failures(self.scheduler.random("failures")),
                    max_age_ms=max_age_ms,
                    limits=limits,
                    rewind_ms=MAX_AGE_MS
                    if WINDOWS in options.without
                    else draw_rewind_ms(self.scheduler.random("window")),
                    breaker=draw_breaker(self.scheduler.random("breaker")),
                    order=self._order,
                    dead_letters=draw_dead_letters(self.scheduler.random("dead letters"), group_count),
                    give_up_share=self.scheduler.random("moves given up").choice((0.0, 0.0, 0.1, 0.4)),
                    dedup_window_ms=ids.choice((700, 3_000, 20_000, 60_000)),
                    dedup_count=ids.choice((3, 20, 1_000_000)),
                ),
                clock_offset_ms=self.plan.clock_offset_ms,
                drift_ppm=self.plan.drift_ppm,
                clock_speed=options.clock_speed or random.choice((1, 4, 10)),
            ),
        )
        self.ledger = Ledger()
        groups = self.cluster.groups
        self.workloads = [
            Workload(self.cluster, self.ledger, group, profile, others=[other for other in groups if other != group])
            for group in groups
        ]
        self.injector = FaultInjector(self.cluster, self.plan)

    def run(self) -> None:
        """Run to the end; raises Violation, or whatever the tested code raised."""
        self.cluster.start()
        self.cluster.set_links(self.plan.quality)
        for workload in self.workloads:
            workload.start()
        self.scheduler.run_for(2 * US_PER_S)
        self.injector.start()
        self.scheduler.run_for(self._seconds * US_PER_S)
        self._settle()
        self._check_end()

    # Liveness: what must be well again, and how soon, once nothing breaks any more.

    def _settle(self) -> None:
        self.injector.stop()
        for workload in self.workloads:
            workload.stop_producing()
        self.cluster.heal()
        self._widen()
        self.scheduler.note("healed")
        self._wait("a leader serves every group", _LEADER_WITHIN_US, self._without_leader)
        self._wait("every batch is answered", _ANSWERED_WITHIN_US, self._unanswered_batches)
        delays_us = max(self._delay_ms(group) for group in self.cluster.groups) * US_PER_MS
        self._wait(
            "every message is delivered and acked",
            _DRAINED_WITHIN_US + delays_us,
            lambda: self._undrained() or self._owed(),
        )
        self._wait("every node catches up", _LEADER_WITHIN_US, self._behind)
        # Long enough for every poll that waits now to end.
        self.scheduler.run_for(_POLLS_END_US)
        self._wait("every request is answered", _ANSWERED_WITHIN_US, self._overdue)

    def _widen(self) -> None:
        """With a narrow window the backlog would be there longer than the run lasts; keys stay what they are."""
        if self._order.window:
            order = order_policy(1_000, by_key=self._order.by_key, blocks=self._order.blocks)
            for node in self.cluster.nodes.values():
                node.set_order(order)
            for group in self.cluster.groups:
                rules = self.cluster.checker.history(group).model.order
                if rules is not None:
                    rules.window = order.window

    def _wait(self, what: str, within_us: int, missing: Callable[[], str]) -> None:
        deadline_us = self.scheduler.now_us + within_us
        while True:
            left = missing()
            if not left:
                return
            if self.scheduler.now_us >= deadline_us:
                broken(what, f"not within {within_us // US_PER_S} s after healing: {left}")
            self.scheduler.run_for(_LOOK_US)

    def _without_leader(self) -> str:
        return ", ".join(f"group {group}" for group in self.cluster.groups if self.cluster.leader_of(group) is None)

    def _unanswered_batches(self) -> str:
        return ", ".join(f"group {workload.partition}" for workload in self.workloads if not workload.is_settled)

    def _delay_ms(self, group: GroupId) -> int:
        """How long after the last entry the last delayed message is due."""
        model = self.cluster.checker.history(group).model
        return model.schedule.left_ms(model.append_ms)

    def _undrained(self) -> str:
        """Messages that a group with consumers has not acked by now."""
        for workload in self.workloads:
            model = self.cluster.checker.history(workload.partition).model
            for name in workload.groups:
                group = model.groups.get(name)
                if group is None:
                    return f"consumer group {name} of group {workload.partition} does not exist"
                left = group.unsettled(model.log_start_offset, model.next_offset)
                if left:
                    return (
                        f"{len(left)} messages of {name} in group {workload.partition}, the first at {left[0]}: "
                        f"{group.message(left[0]).describe()}, log time {model.append_ms}"
                    )
        return ""

    def _owed(self) -> str:
        """What is on its way to another partition, or has to go there."""
        for workload in self.workloads:
            model = self.cluster.checker.history(workload.partition).model
            rows = model.moves.owed()
            if rows:
                return f"{len(rows)} moves out of group {workload.partition}, the first {rows[0]}"
            node = self.cluster.options.node
            # A message that could not be copied stays where it is while its leader leads.
            if node.dead_letters.get(workload.partition) and not node.give_up_share:
                for group in model.groups.values():
                    if group.has_dead(model.log_start_offset, model.next_offset):
                        return f"dead messages of {group.name} in group {workload.partition} that should be moved"
        return ""

    def _behind(self) -> str:
        for group in self.cluster.groups:
            committed = self.cluster.checker.committed(group)
            for node in self.cluster.nodes.values():
                replica = node.replica(group)
                if replica is None:
                    return f"node {node.node} has no replica of group {group}"
                # Leases of idle consumers go on; a few entries of distance are no lag.
                if replica.machine.applied_index + 20 < committed:
                    return f"node {node.node} has applied {replica.machine.applied_index} of {committed} in {group}"
        return "" if self.cluster.membership.is_settled else "membership is not as wanted"

    def _overdue(self) -> str:
        late = [operation for node in self.cluster.nodes.values() for operation in node.overdue(US_PER_S)]
        return late[0].describe() if late else ""

    # At the end.

    def _check_end(self) -> None:
        check_moves({group: self.cluster.checker.history(group).model.moves for group in self.cluster.groups})
        for workload in self.workloads:
            self._check_states(workload.partition)
            self._check_ledger(workload.partition)
            self._check_positions(workload)

    def _check_states(self, group: GroupId) -> None:
        """Every replica that stands where the model stands has the model's state, and at least one does."""
        model = self.cluster.checker.history(group).model
        compared = 0
        for _ in range(100):
            for node in self.cluster.nodes.values():
                replica = node.replica(group)
                if replica is not None and replica.machine.applied_index == model.last_index:
                    compare_states(model, machine_of(replica), f"node {node.node}")
                    compared += 1
            if compared >= len(self.cluster.node_ids):
                return
            self.scheduler.run_for(7 * US_PER_MS)
        broken("every node catches up", f"{compared} nodes of group {group} stood at the model's index")

    def _check_positions(self, workload: Workload) -> None:
        """What the leader says of the consumer groups is what the model counts."""
        for consumer in workload.consumers:
            consumer.stop()
        checker = self.cluster.checker.history(workload.partition).answers
        for _ in range(100):
            leader = self.cluster.leader_of(workload.partition)
            if leader is not None:
                asked = self.cluster.ask("end", leader.node, workload.partition, StateRequest())
                self.scheduler.run_for(100 * US_PER_MS)
                if checker.check_positions(asked):
                    return
            self.scheduler.run_for(_LOOK_US)
        broken("positions are exact", f"group {workload.partition} never said how it stands")

    def _check_ledger(self, group: GroupId) -> None:
        model = self.cluster.checker.history(group).model
        for value, offset in self.ledger.confirmed.get(group, {}).items():
            if model.offset_of.get(value) != offset:
                broken(
                    "confirmed messages stay",
                    f"{value[:60]!r} was confirmed at {offset} of group {group}, "
                    f"the log has it at {model.offset_of.get(value)}",
                )
        for name, value, offset in self.ledger.confirmed_with_ids.get(group, ()):
            first = model.ids.by_offset.get(offset)
            there = model.values[offset] if offset < model.next_offset else None
            if offset in model.ids.repeats and offset < model.log_start_offset and there == value:
                # Told by a retry after a full queue had dropped it: by then nobody knew that it was a repeat.
                continue
            if there != value or offset in model.ids.repeats or (None if first is None else first.name) != name:
                broken("confirmed messages stay", f"{value!r} of id {name!r} was confirmed at {offset}: {first}")
        for value in model.values:
            if value not in self.ledger.sent:
                broken("nothing appears that nobody sent", f"{value[:60]!r} in group {group}")
            if value in self.ledger.refused:
                broken("what was refused is not done", f"{value[:60]!r} in group {group}")
            self._check_due(model, value)

    def _check_due(self, model: PartitionModel, value: bytes) -> None:
        """A message is due when its producer asked for, to the next full 100 ms of log time; a moved one at once."""
        offset = model.offset_of[value]
        append_ms = model.entry_at(offset)[1]
        asked = self.ledger.delays.get(value, [(0, 0)]) if offset not in model.copies else [(0, 0)]
        wanted = [append_ms + delay_ms if delay_ms else deliver_at_ms for delay_ms, deliver_at_ms in asked]
        due = [-(-time_ms // 100) * 100 if time_ms > append_ms else 0 for time_ms in wanted]
        if model.schedule.due_ms.get(offset, 0) not in due:
            broken(
                "a message is due when its producer asked for",
                f"{value[:60]!r} of log time {append_ms} is due at {model.schedule.due_ms.get(offset, 0)}, not {due}",
            )

    def situations(self) -> dict[str, int]:
        """How often each situation was reached; a counter that stays 0 over many seeds is a blind spot.

        To be called once, at the end.
        """
        counts: dict[str, int] = {}

        def add(prefix: str, more: dict[str, int]) -> None:
            for name, count in more.items():
                counts[prefix + name] = counts.get(prefix + name, 0) + count

        add("fault: ", self.injector.counts)
        add("membership: ", self.cluster.membership.counts)
        add("", self.cluster.history.counts)
        add("replica: ", self.cluster.checker.counts)
        add("progress: ", self.cluster.progress.counts)
        add("", self.cluster.situations.counts)
        for node in self.cluster.nodes.values():
            node.count_living()
            add("node: ", node.counts)
        for group in self.cluster.groups:
            history = self.cluster.checker.history(group)
            add("log: ", history.model.applied_counts)
            add("", history.model.failure_counts)
            add("", history.model.order.counts if history.model.order is not None else {})
            add("", history.model.delay_counts)
            add("", history.model.moves.counts)
            add("", history.model.ids.counts)
            add("judged: ", history.answers.judged_counts)
            add("", {"leaders": len(history.leaders), "digests compared": history.compared_digests})
            add("", {"messages": len(history.model.values)})
        return dict(sorted(counts.items()))


def node_count_of(seed: int) -> int:
    """How many nodes a seed has where nobody says: five in every eighth, three in the others."""
    return 5 if seed % 8 == 5 else 3


def draw_node(random: Random) -> NodeOptions:
    """How large the files of the nodes are: the smaller, the more often one is rolled in the middle of something."""
    wal_bytes = random.choice((96 << 10, 192 << 10))
    return NodeOptions(
        store=small_store(wal_bytes=wal_bytes, segment_bytes=random.choice((8 << 10, 16 << 10, 48 << 10))),
        engine=quick_engine(wal_bytes=wal_bytes),
    )


def draw_failures(random: Random) -> FailurePolicy:
    """What queues do with messages that fail; in every third run they are tried again for ever."""
    return (
        FailurePolicy(
            max_deliveries=random.choice((0, 1, 2, 2, 3, 4)),
            backoff_ms=random.choice((0, 0, 200, 1_000)),
            max_backoff_ms=random.choice((1_500, 4_000)),
        )
        if random.random() < 0.75
        else NO_POLICY
    )


def draw_max_age_ms(random: Random) -> int:
    """How long messages may stay unsettled; for ever in most runs."""
    return random.choice((1_000, 2_000, 5_000, 15_000)) if random.random() < 0.3 else 0


def draw_limits(random: Random) -> SizeLimits:
    """How much partitions may hold; in most runs there is no bound.

    A queue that refuses more bytes waits for retention, which is too long for a run.
    """
    if random.random() >= 0.3:
        return NO_LIMITS
    drops_oldest = random.random() < 0.6
    by_bytes = drops_oldest and random.random() < 0.5
    return SizeLimits(
        max_messages=0 if by_bytes else random.choice((10, 30, 80)),
        max_bytes=random.choice((20_000, 60_000, 150_000)) if by_bytes else 0,
        drops_oldest=drops_oldest,
    )


def draw_rewind_ms(random: Random) -> int:
    """How long what is settled may be rewound; in most runs as long as it is kept."""
    return random.choice((0, 1_000, 5_000, 15_000)) if random.random() < 0.3 else MAX_AGE_MS


def draw_breaker(random: Random) -> BreakerPolicy | None:
    """When groups that fail are paused: in a third of the runs, since much does not happen to a group that is paused.

    The shares are some that the consumers do reach.
    """
    if random.random() < 0.67:
        return None
    return BreakerPolicy(
        percent=random.choice((15, 25, 50)),
        least_count=random.choice((1, 5, 20)),
        window_ms=random.choice((1_000, 2_500, 6_000)),
        pause_ms=random.choice((1_000, 2_000, 4_000)),
    )


def draw_order(random: Random) -> OrderPolicy:
    """The order of the queues of one run; every other run has none."""
    draw, blocks = random.random(), random.random() < 0.7
    if draw < 0.5:
        return NO_ORDER
    if draw < 0.7:
        return order_policy(random.choice((1, 1, 2, 5, 30)), by_key=False, blocks=blocks)
    return order_policy(random.choice((0, 0, 4, 20)), by_key=True, blocks=blocks)


def draw_delays(profile: WorkloadProfile, random: Random) -> WorkloadProfile:
    """How much is to be delivered later; in half of the runs nothing is."""
    return replace(
        profile,
        delay_share=random.choice((0.0, 0.0, 0.15, 0.4)),
        max_delay_ms=random.choice((2_000, 8_000, 20_000)),
        cancel_share=random.choice((0.0, 0.3, 0.6)),
    )


def draw_dead_letters(random: Random, group_count: int) -> dict[GroupId, GroupId]:
    """Where dead messages of each partition go: in half of the runs with two, those of the first to the second."""
    return {GroupId(1): GroupId(2)} if random.random() < 0.5 and group_count > 1 else {}


def draw_profile(random: Random) -> WorkloadProfile:
    """How the clients of one run behave."""
    return WorkloadProfile(
        producers=random.choice((1, 2, 3)),
        batches_per_second=random.choice((2.0, 4.0, 6.0)),
        max_in_flight=random.choice((1, 3, 5)),
        large_value_share=random.choice((0.0, 0.05, 0.2)),
        producer_death_share=random.choice((0.0, 0.01, 0.05)),
        consumers=random.choice((2, 4)),
        die_share=random.choice((0.0, 0.05)),
        late_share=random.choice((0.0, 0.05, 0.2)),
        operator_actions_per_second=random.choice((0.0, 0.3, 1.0)),
        extra_groups=random.choice((0, 1)),
    )


def _simpler_plan(plan: FaultPlan, without: frozenset[str]) -> FaultPlan:
    return replace(
        plan,
        quality=LinkQuality() if LINKS in without else plan.quality,
        clock_offset_ms=0 if CLOCKS in without else plan.clock_offset_ms,
        drift_ppm=0 if CLOCKS in without else plan.drift_ppm,
        burst_share=0.0 if BURSTS in without else plan.burst_share,
    )


def _simpler_profile(profile: WorkloadProfile, without: frozenset[str]) -> WorkloadProfile:
    if MISBEHAVIOUR in without:
        profile = replace(
            profile,
            producer_death_share=0.0,
            die_share=0.0,
            nack_share=0.0,
            extend_share=0.0,
            late_share=0.0,
            release_share=0.0,
            stale_share=0.0,
            double_share=0.0,
            partial_share=0.0,
        )
    return replace(
        profile,
        operator_actions_per_second=0.0 if OPERATOR in without else profile.operator_actions_per_second,
        extra_groups=0 if GROUPS in without else profile.extra_groups,
        producers=1 if PRODUCERS in without else profile.producers,
        consumers=1 + (GROUPS not in without and profile.extra_groups) if CONSUMERS in without else profile.consumers,
        delay_share=0.0 if DELAYS in without else profile.delay_share,
        id_senders=0 if IDS in without else profile.id_senders,
        large_value_share=0.0 if LARGE_VALUES in without else profile.large_value_share,
        has_vandal=profile.has_vandal and VANDAL not in without,
        has_watcher=profile.has_watcher and WATCHER not in without,
    )


def run_seed(seed: int, options: RunOptions) -> Result:
    """Run one seed and say how it went; raises nothing."""
    result = Result(seed)
    started_s = process_time()
    simulation = Simulation(seed, options)
    result.plan = simulation.plan.describe()
    try:
        simulation.run()
    except Violation as violation:
        result.rule, result.failure = violation.rule, str(violation)
    except Exception as error:
        # A bug of the tested code, or of this kit: both end the run and are shown as they are.
        result.rule = "nothing unforeseen is raised"
        result.failure = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    result.cpu_s = process_time() - started_s
    if result.failure:
        result.trace = simulation.scheduler.trace()
    result.digest = simulation.scheduler.digest()
    result.simulated_us = simulation.scheduler.now_us
    result.events = simulation.scheduler.events_run
    result.situations = simulation.situations()
    return result
