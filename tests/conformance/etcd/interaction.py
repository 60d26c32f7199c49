"""The directives of the interaction scripts, on a cluster of our cores.

A script is equal if after every directive the facts (see `facts`) are. Scripts that use what only etcd's API has
are left out and named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from logbroker.errors import LogBrokerError
from logbroker.ids import ReplicaId
from logbroker.raft.config_change import ConfigProposal, Transition
from logbroker.raft.messages import ConfState
from tests.conformance.etcd.confchange import parse_changes
from tests.conformance.etcd.differences import explain
from tests.conformance.etcd.facts import read_facts
from tests.conformance.etcd.interaction_cluster import (
    DROPPED,
    ELECTION_TICKS,
    HEARTBEAT_TICKS,
    UNBOUNDED,
    InteractionCluster,
    NodeOptions,
)
from tests.conformance.etcd.outcome import Outcome

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from tests.conformance.etcd.datadriven import Case
    from tests.conformance.etcd.differences import Deviation

_TRANSITIONS: Final = {
    "auto": Transition.AUTO,
    "implicit": Transition.IMPLICIT,
    "explicit": Transition.EXPLICIT,
}


def left_out(case: Case) -> str | None:
    """What of etcd's own API the directive needs, if any."""
    if case.command == "forget-leader":
        return "forget-leader: a replica is told to forget its leader"
    if case.flag("disable-conf-change-validation"):
        return "disable-conf-change-validation: a leader that does not check what it proposes"
    if case.arguments.get("read-only") == ["lease-based"]:
        return "read-only=lease-based: reads that trust a clock"
    return None


def replay_script(cases: Sequence[Case]) -> Outcome:
    """Run a whole script and compare after each directive; the first one that differs is told."""
    name = cases[0].file
    for case in cases:
        api = left_out(case)
        if api is not None:
            return Outcome(name, is_equal=False, left_out=api)
    script = InteractionScript()
    first = ""
    differing = 0
    is_same_order = True
    for case in cases:
        expected = read_facts(case.expected, command=case.command)
        try:
            got = read_facts(script.run(case), command=case.command)
        except (LogBrokerError, LookupError, ValueError) as error:
            stop = f"{case.place}: {case.command}: cannot go on: {type(error).__name__}: {error}"
            return Outcome(name, is_equal=False, difference=first or stop)
        is_same_order = is_same_order and expected.lines == got.lines
        missing, surplus = expected.as_counter() - got.as_counter(), got.as_counter() - expected.as_counter()
        if missing or surplus:
            differing += 1
            first = first or (
                f"{case.place}: {case.command} ({explain(script.deviations)}):"
                f" missing {_list(missing)}; got {_list(surplus)}"
            )
    if first:
        first += f" ({differing} of {len(cases)} directives differ)"
    return Outcome(name, is_equal=not first, difference=first, is_same_order=is_same_order)


def _list(facts: Counter[str]) -> str:
    return " | ".join(sorted(facts.elements())) or "nothing"


@final
class InteractionScript:
    """The state of one script."""

    def __init__(self) -> None:
        self._cluster = InteractionCluster()

    @property
    def deviations(self) -> set[Deviation]:
        return self._cluster.deviations

    def run(self, case: Case) -> str:
        """Run one directive and give its output.

        Raises:
            ValueError: the directive is unknown or cannot be read.
            LookupError: it names no replica, or one that was not added.
        """
        cluster = self._cluster
        cluster.lines.clear()
        self._run(case)
        if cluster.is_quiet:
            # Errors alone are printed then.
            return "\n".join(line for line in cluster.lines if line == DROPPED)
        return "\n".join(cluster.lines)

    def _run(self, case: Case) -> None:
        cluster = self._cluster
        words = [key for key, values in case.arguments.items() if not values]
        replicas = [ReplicaId(int(word)) for word in words if word.isdecimal()]
        match case.command:
            case "_breakpoint":
                pass
            case "log-level":
                cluster.set_level(words[0])
            case "add-nodes":
                cluster.add_nodes(int(words[0]), _node_options(case))
            case "campaign":
                cluster.campaign(replicas[0])
            case "propose":
                cluster.propose(replicas[0], list(case.arguments)[-1].encode())
            case "propose-conf-change":
                cluster.propose(replicas[0], _proposal(case))
            case "transfer-leadership":
                cluster.transfer(_number(case, "from"), _number(case, "to"))
            case "report-unreachable":
                cluster.nodes[replicas[0]].core.report_unreachable(replicas[1])
            case "set-randomized-election-timeout":
                cluster.set_election_timeout(replicas[0], _number(case, "timeout"))
            case "tick-election":
                cluster.tick(replicas[0], ELECTION_TICKS)
            case "tick-heartbeat":
                cluster.tick(replicas[0], HEARTBEAT_TICKS)
            case "send-snapshot":
                cluster.send_snapshot(replicas[0], replicas[1])
            case "compact":
                cluster.compact(replicas[0], int(words[1]))
            case "raft-log":
                cluster.show_log(replicas[0])
            case "raft-state":
                cluster.show_standing()
            case "status":
                cluster.show_status(replicas[0])
            case "deliver-msgs":
                self._deliver(case)
            case "stabilize":
                self._stabilize(case, replicas)
            case "process-ready" | "process-append-thread" | "process-apply-thread":
                self._process(case.command, replicas)
            case _:
                raise ValueError(f"unknown command {case.command}")

    def _deliver(self, case: Case) -> None:
        kind = case.arguments.get("type", [None])[0]
        for key, values in case.arguments.items():
            if key == "drop":
                for value in values:
                    self._cluster.deliver(ReplicaId(int(value)), kind=kind, drop=True)
            elif not values:
                self._cluster.deliver(ReplicaId(int(key)), kind=kind)

    def _stabilize(self, case: Case, replicas: list[ReplicaId]) -> None:
        cluster = self._cluster
        level = cluster.level
        for name in case.arguments.get("log-level", []):
            cluster.set_level(name)
        cluster.stabilize(replicas or list(cluster.nodes))
        if cluster.is_quiet:
            cluster.lines.clear()
        cluster.level = level

    def _process(self, command: str, replicas: list[ReplicaId]) -> None:
        cluster = self._cluster
        work, heading = {
            "process-ready": (cluster.process_ready, "handling Ready"),
            "process-append-thread": (cluster.process_append, "processing append thread"),
            "process-apply-thread": (cluster.process_apply, "processing apply thread"),
        }[command]
        for replica in replicas:
            if len(replicas) > 1:
                cluster.lines.append(f"> {replica} {heading}")
            work(replica)


def _number(case: Case, key: str) -> ReplicaId:
    return ReplicaId(int(case.arguments[key][0]))


def _node_options(case: Case) -> NodeOptions:
    def ids(key: str) -> tuple[ReplicaId, ...]:
        return tuple(sorted(ReplicaId(int(value)) for value in case.arguments.get(key, [])))

    def number(key: str, default: int) -> int:
        return int(case.arguments.get(key, [str(default)])[0])

    return NodeOptions(
        conf=ConfState(voters=ids("voters"), learners=ids("learners")),
        index=number("index", 0),
        is_async=case.flag("async-storage-writes"),
        pre_vote=case.flag("prevote"),
        check_quorum=case.flag("checkquorum"),
        step_down_on_removal=case.flag("step-down-on-removal"),
        max_inflight_messages=number("inflight", UNBOUNDED),
        max_committed_bytes_per_ready=number("max-committed-size-per-ready", UNBOUNDED),
    )


def _proposal(case: Case) -> ConfigProposal:
    transition = _TRANSITIONS[case.arguments.get("transition", ["auto"])[0]]
    return ConfigProposal(tuple(parse_changes(case.input)), transition)
