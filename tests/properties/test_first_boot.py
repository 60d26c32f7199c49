"""First boots under any order of messages, crashes, emptied disks, cut links and operators' words."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logbroker.node.cluster_messages import Phase
from tests.node_kit.first_boot import Network

NUMBERS = st.integers(1, 3)


class FirstBoots(RuleBasedStateMachine):
    """Three nodes. At most one is ever emptied or left out: with two of three gone, any promise is worthless."""

    @initialize(started=st.sets(NUMBERS), left_out=st.sampled_from([0, 0, 1, 2, 3]))
    def begin(self, started: set[int], left_out: int) -> None:
        self.network = Network()
        self.left_out = left_out
        self.may_wipe = left_out == 0
        self.wiped = 0
        self.founded: dict[bytes, set[bytes]] = {}
        for number in started:
            self.network.start(number)

    @rule(number=NUMBERS)
    def starts(self, number: int) -> None:
        if self.running(number):
            return
        # The operator says it where it takes effect: to whoever asks then.
        says = self.left_out and number == min({1, 2, 3} - {self.left_out})
        self.network.start(number, without=(self.left_out,) if says else ())

    @rule(number=NUMBERS)
    def dies(self, number: int) -> None:
        self.network.kill(number)

    @precondition(lambda self: self.may_wipe)
    @rule(number=NUMBERS)
    def loses_its_disk(self, number: int) -> None:
        self.may_wipe = False
        self.network.wipe(number)

    @rule(number=NUMBERS)
    def is_cut_off(self, number: int) -> None:
        self.network.isolate(number)

    @rule()
    def all_links_heal(self) -> None:
        self.network.heal()

    @rule(number=NUMBERS)
    def dies_at_its_next_save(self, number: int) -> None:
        armed = [True]

        def fails(node: int) -> bool:
            return node == number and bool(armed) and armed.pop()

        self.network.save_fails = fails

    @rule(number=NUMBERS)
    def ticks(self, number: int) -> None:
        self.network.tick(number)

    @rule(data=st.data(), count=st.integers(1, 8))
    def messages_arrive(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            pending = self.network.pending()
            if not pending:
                return
            self.network.deliver(*data.draw(st.sampled_from(pending)))

    @rule()
    def all_is_well_for_a_while(self) -> None:
        """Everybody runs and hears everybody: then a cluster comes about, or the operator is told why not."""
        self.network.save_fails = lambda _: False
        for number in (1, 2, 3):
            self.starts(number)
        self.network.heal()
        self.network.settle()
        phases = {number: self.network.phase(number) for number in (1, 2, 3)}
        if not all(phase.is_member for phase in phases.values()):
            assert all(self.network.problems(number) for number, phase in phases.items() if not phase.is_member), phases

    @invariant()
    def no_two_clusters_have_a_majority_of_founded_nodes(self) -> None:
        if not hasattr(self, "network"):
            return
        able = set()
        for machine in self.network.machines.values():
            record = machine.durable.record
            if machine.durable.phase is not Phase.FOUNDED or record is None:
                continue
            alive = [
                row
                for row in record.nodes
                if self.network.machines[row.node].incarnation == row.incarnation
                and self.network.machines[row.node].durable.cluster_id == record.cluster_id
                and self.network.machines[row.node].created
            ]
            if 2 * len(alive) > len(record.nodes):
                able.add(record.cluster_id)
        assert len(able) <= 1

    @invariant()
    def a_founded_cluster_was_recorded_by_all_of_it(self) -> None:
        if not hasattr(self, "network"):
            return
        for machine in self.network.machines.values():
            if machine.durable.phase is not Phase.FOUNDED or machine.durable.record is None:
                continue
            for row in machine.durable.record.nodes:
                other = self.network.machines[row.node]
                if other.incarnation == row.incarnation:
                    assert other.durable.phase >= Phase.RECORDED
                    assert other.durable.cluster_id == machine.durable.cluster_id

    @invariant()
    def replicas_are_created_by_members_alone_and_only_those_that_name_their_life(self) -> None:
        if not hasattr(self, "network"):
            return
        for machine in self.network.machines.values():
            if not machine.created:
                continue
            assert machine.durable.phase.is_member
            if machine.durable.phase is Phase.FOUNDED:
                record = machine.durable.record
                assert record is not None
                assert any(row.incarnation == machine.incarnation for row in record.nodes)

    def running(self, number: int) -> bool:
        return any(node == number and machine.boot is not None for node, machine in self.network.machines.items())


FirstBoots.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestFirstBoots = FirstBoots.TestCase
