"""The end of a run: what must be well again is demanded, and is missed where it is not; what was told is held to."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from logbroker.node.engine import Engine
from logbroker.node.requests import NackRequest, ProduceRequest
from logbroker.testing.faults import FaultKind, FaultPlan, draw_plan
from logbroker.testing.scheduler import US_PER_S, Scheduler
from logbroker.testing.simulation import AGES, BOUNDS, ORDER, WINDOWS, RunOptions, Simulation, run_seed
from logbroker.testing.violation import Violation
from logbroker.testing.workload import WorkloadProfile

if TYPE_CHECKING:
    from collections.abc import Callable

    from logbroker.node.requests import Answer, Request

HEALTHY = RunOptions(
    seconds=3,
    group_count=1,
    clock_speed=1,
    plan=FaultPlan(),
    profile=WorkloadProfile(operator_actions_per_second=0.0, nack_share=0.3),
    without=frozenset({AGES, BOUNDS, WINDOWS, ORDER}),
)


def broken_rule(break_it: Callable[[Simulation], None]) -> str:
    """Run a healthy simulation for a while, break something for good, and see which demand is missed at its end."""
    simulation = Simulation(5, HEALTHY)
    simulation.scheduler.at(4 * US_PER_S, lambda: break_it(simulation))
    with pytest.raises(Violation) as caught:
        simulation.run()
    return caught.value.rule


def forget(simulation: Simulation, kind: type[Request]) -> None:
    """Let every node take requests of one kind and never answer them."""
    for node in simulation.cluster.nodes.values():
        assert node.engine is not None
        service = node.engine.services[simulation.cluster.groups[0]]
        taken = service.submit

        def submit(request: Request, answer: Answer, taken: Callable[[Request, Answer], None] = taken) -> None:
            if not isinstance(request, kind):
                taken(request, answer)

        service.submit = submit  # type: ignore[method-assign]  # the planted bug


def test_a_healthy_run_ends_well_and_counts_what_it_reached() -> None:
    result = run_seed(5, HEALTHY)
    assert not result.failure
    assert result.situations["messages"] > 20
    assert result.situations["judged: ProduceReply"] > 5
    assert result.situations["digests compared"] > 0
    assert result.trace == []


def test_a_cluster_without_a_majority_misses_its_leader() -> None:
    def stop_two(simulation: Simulation) -> None:
        for node in list(simulation.cluster.nodes.values())[:2]:
            node.kill()
            node.start = lambda: None  # type: ignore[method-assign]  # it never comes back

    assert broken_rule(stop_two) == "a leader serves every group"


def test_a_batch_that_is_never_answered_is_missed() -> None:
    assert broken_rule(lambda simulation: forget(simulation, ProduceRequest)) == "every batch is answered"


def test_messages_that_are_never_delivered_are_missed() -> None:
    def stop_consumers(simulation: Simulation) -> None:
        for consumer in simulation.workloads[0].consumers:
            consumer.stop()

    assert broken_rule(stop_consumers) == "every message is delivered and acked"


def test_a_node_that_does_not_catch_up_is_missed() -> None:
    def stop_a_follower(simulation: Simulation) -> None:
        leader = simulation.cluster.leader_of(simulation.cluster.groups[0])
        node = next(node for node in simulation.cluster.nodes.values() if node is not leader)
        node.kill()
        node.start = lambda: None  # type: ignore[method-assign]  # it never comes back

    assert broken_rule(stop_a_follower) == "every node catches up"


def test_a_request_that_the_engine_forgets_is_missed() -> None:
    assert broken_rule(lambda simulation: forget(simulation, NackRequest)) == "every request is answered"


def test_a_confirmed_message_that_is_not_in_the_log_is_missed() -> None:
    def invent(simulation: Simulation) -> None:
        simulation.ledger.confirmed.setdefault(simulation.cluster.groups[0], {})[b"never sent"] = 0

    assert broken_rule(invent) == "confirmed messages stay"


def test_a_message_that_nobody_sent_is_caught() -> None:
    def forget(simulation: Simulation) -> None:
        simulation.ledger.sent.pop()

    assert broken_rule(forget) == "nothing appears that nobody sent"


def test_a_message_that_was_refused_and_appears_is_caught() -> None:
    def refuse(simulation: Simulation) -> None:
        simulation.ledger.refused.update(simulation.ledger.sent)

    assert broken_rule(refuse) == "what was refused is not done"


def test_what_the_tested_code_raises_ends_the_run_and_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Engine) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Engine, "tick", fail)
    result = run_seed(5, HEALTHY)
    assert result.rule == "nothing unforeseen is raised"
    assert "RuntimeError: planted" in result.failure
    assert result.trace


# The swarm.


def test_plans_differ_and_some_are_nearly_healthy() -> None:
    plans = [draw_plan(Scheduler(seed).random("plan")) for seed in range(200)]
    assert sum(not plan.rates for plan in plans) > 10
    for kind in FaultKind:
        on = sum(kind in plan.rates for plan in plans)
        assert 30 < on < 120, f"{kind.value} is on in {on} of 200 plans"


def test_switching_a_fault_off_leaves_the_others_as_they_were() -> None:
    for seed in range(30):
        plan = draw_plan(Scheduler(seed).random("plan"))
        without = draw_plan(Scheduler(seed).random("plan"), without=frozenset({FaultKind.KILL}))
        rates = {kind: rate for kind, rate in plan.rates.items() if kind is not FaultKind.KILL}
        assert without.rates == rates
        assert without.quality == plan.quality


def test_every_kind_of_fault_strikes() -> None:
    """Every kind alone, often: it happens, and the run ends well."""
    struck: dict[str, int] = {}
    for number, kind in enumerate(FaultKind):
        plan = FaultPlan({kind: 1.5})
        result = run_seed(100 + number, RunOptions(seconds=4, group_count=1, plan=plan))
        assert not result.failure, f"{kind.value}: {result.failure}"
        struck[kind.value] = result.situations.get(f"fault: {kind.value}", 0)
    assert all(struck.values()), struck


def test_no_replica_is_moved_while_another_node_may_have_lost_what_it_held() -> None:
    simulation = Simulation(5, HEALTHY)
    cluster = simulation.cluster
    cluster.start()
    simulation.scheduler.run_for(4 * US_PER_S)
    for node in cluster.nodes.values():
        node.misdirect_flush(512)
    assert not cluster.move_replica(Random(1))
    for node in cluster.nodes.values():
        node.kill()
        node.start()
    simulation.scheduler.run_for(4 * US_PER_S)
    assert cluster.move_replica(Random(1))
