"""The first boot as a state machine: who may found a cluster, and what no order of events may bring about."""

from __future__ import annotations

import pytest

from logbroker.errors import InvalidArgumentError
from logbroker.ids import NodeId
from logbroker.node.bootstrap import FirstBoot, FirstBootMachine
from logbroker.node.cluster_file import ClusterState
from logbroker.node.cluster_messages import Ask, Phase, Promise, Record, Recorded, Refusal, Standing
from tests.node_kit.first_boot import Network


def founded(count: int = 3) -> Network:
    network = Network(count)
    network.start(*range(1, count + 1))
    network.settle()
    return network


def until_phase(network: Network, number: int, phase: Phase) -> None:
    """Go on, message by message, until a node has saved `phase`."""
    for _ in range(1_000):
        if network.phase(number) is phase:
            return
        if not network.pending():
            for node in network.nodes:
                network.tick(node)
        for link in network.pending()[:1]:
            network.deliver(*link)
    raise AssertionError(f"node {number} never came to {phase.name}")


def test_a_cluster_of_one_is_founded_at_once() -> None:
    network = Network(1)
    network.start(1)
    network.tick(1)
    assert network.phase(1) is Phase.FOUNDED
    assert network.machines[NodeId(1)].created == [1]


@pytest.mark.parametrize("count", [3, 5, 7])
def test_all_nodes_found_one_cluster_and_make_the_replicas_of_its_record(count: int) -> None:
    network = founded(count)
    assert {network.phase(number) for number in range(1, count + 1)} == {Phase.FOUNDED}
    assert len(network.clusters_with_replicas()) == 1
    assert [network.machines[node].created for node in network.nodes] == [[number] for number in range(1, count + 1)]


def test_the_node_with_the_lowest_number_asks_and_nobody_else() -> None:
    network = Network()
    network.start(2, 3)
    network.settle()
    assert (network.phase(2), network.phase(3)) == (Phase.ALONE, Phase.ALONE)
    assert network.problems(3) == ["waits for node 1 to found the cluster; does not hear node 1"]


def test_nothing_is_founded_while_one_node_is_missing_and_it_is_named() -> None:
    network = Network()
    network.start(1, 2)
    network.settle()
    assert network.phase(1) is Phase.PROMISED
    assert network.problems(1) == ["waits for node 3, which is not connected"]
    network.start(3)
    network.settle()
    assert network.phase(1) is Phase.FOUNDED


def test_the_asker_keeps_its_cluster_id_over_a_restart() -> None:
    network = Network()
    network.start(1)
    network.tick(1)
    network.kill(1)
    network.start(1, 2, 3)
    network.settle()
    assert network.clusters == 1


def test_nobody_is_founded_before_all_have_recorded() -> None:
    network = Network()
    network.start(1, 2, 3)
    until_phase(network, 2, Phase.RECORDED)
    network.isolate(3)
    network.settle()
    if network.phase(3) is not Phase.RECORDED:
        assert network.phase(1) is Phase.RECORDED
        assert not network.machines[NodeId(1)].created
    network.heal()
    network.settle()
    assert {network.phase(number) for number in (1, 2, 3)} == {Phase.FOUNDED}


def test_who_holds_the_record_goes_on_when_any_member_says_that_it_was_founded() -> None:
    network = Network()
    network.start(1, 2, 3)
    until_phase(network, 3, Phase.RECORDED)
    until_phase(network, 1, Phase.FOUNDED)
    network.isolate(3)
    network.settle()
    assert network.phase(2) is Phase.FOUNDED
    # The asker is gone; the other member's word is as good.
    network.kill(1)
    network.heal()
    network.settle()
    assert network.phase(3) is Phase.FOUNDED


def test_a_promise_holds_over_a_restart() -> None:
    network = Network()
    network.start(1, 2)
    until_phase(network, 2, Phase.PROMISED)
    network.kill(2)
    network.start(2)
    assert network.machines[NodeId(2)].durable.cluster_id == network.machines[NodeId(1)].durable.cluster_id


def test_an_asker_with_an_emptied_disk_may_ask_again_who_only_promised() -> None:
    network = Network()
    network.start(1, 2)
    until_phase(network, 2, Phase.PROMISED)
    network.wipe(1)
    network.start(1, 3)
    network.settle()
    assert {network.phase(number) for number in (1, 2, 3)} == {Phase.FOUNDED}
    assert len(network.clusters_with_replicas()) == 1


def test_an_asker_with_an_emptied_disk_is_refused_by_who_holds_the_record_of_its_earlier_life() -> None:
    network = Network()
    network.start(1, 2, 3)
    until_phase(network, 2, Phase.RECORDED)
    network.wipe(1)
    network.start(1)
    network.settle()
    assert network.phase(2) is Phase.RECORDED
    assert not network.clusters_with_replicas()
    assert any("node 2 refuses" in problem and "another life of node 1" in problem for problem in network.problems(1))


def test_a_node_whose_disk_was_emptied_after_its_promise_is_asked_again_for_another_cluster() -> None:
    network = Network()
    network.start(1, 2, 3)
    until_phase(network, 1, Phase.RECORDED)
    network.isolate(3)
    network.settle()
    network.wipe(3)
    network.cut.clear()
    network.start(3)
    network.settle()
    assert {network.phase(number) for number in (1, 2, 3)} == {Phase.FOUNDED}
    assert network.clusters == 2
    assert len(network.clusters_with_replicas()) == 1


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_a_member_whose_disk_was_emptied_joins_as_a_new_life_with_another_replica(victim: int) -> None:
    network = founded()
    network.wipe(victim)
    network.start(victim)
    network.settle()
    assert network.phase(victim) is Phase.JOINED
    assert network.machines[NodeId(victim)].created == [100 * victim + 2]
    assert len(network.clusters_with_replicas()) == 1


def test_a_wiped_node_that_hears_no_member_founds_nothing_alone() -> None:
    network = founded()
    network.wipe(1)
    network.isolate(1)
    network.start(1)
    network.settle()
    assert network.phase(1) is Phase.PROMISED
    assert not network.machines[NodeId(1)].created


def test_a_word_of_the_operator_goes_on_without_a_node_which_joins_later() -> None:
    network = Network()
    network.start(1, without=(3,))
    network.start(2)
    network.settle()
    assert (network.phase(1), network.phase(2)) == (Phase.FOUNDED, Phase.FOUNDED)
    record = network.machines[NodeId(2)].durable.record
    assert record is not None
    assert record.without == (3,)
    network.start(3)
    network.settle()
    assert network.phase(3) is Phase.JOINED
    assert network.machines[NodeId(3)].created == [301]


def test_without_the_lowest_node_the_next_one_asks_even_if_a_promise_was_given_to_it() -> None:
    network = Network()
    network.start(1, 3)
    until_phase(network, 3, Phase.PROMISED)
    network.kill(1)
    network.start(2, without=(1,))
    network.settle()
    assert (network.phase(2), network.phase(3)) == (Phase.FOUNDED, Phase.FOUNDED)
    network.start(1)
    network.settle()
    assert network.phase(1) is Phase.JOINED
    assert len(network.clusters_with_replicas()) == 1


def test_a_promise_on_an_operators_word_is_not_given_away_to_who_asks_without_one() -> None:
    network = Network()
    network.start(2, without=(1,))
    network.start(3)
    until_phase(network, 3, Phase.PROMISED)
    network.isolate(2)
    network.start(1)
    network.settle()
    assert not network.clusters_with_replicas()
    assert any("has promised itself to cluster" in problem for problem in network.problems(1))


def test_a_minority_founds_nothing_on_any_word() -> None:
    network = Network()
    network.start(1, without=(2, 3))
    network.settle()
    assert network.phase(1) is Phase.ALONE
    assert network.problems(1) == ["no cluster is founded: nodes [1] are no majority of [1, 2, 3]"]


def test_a_change_of_the_operators_word_begins_another_cluster() -> None:
    network = Network()
    network.start(1)
    network.tick(1)
    network.kill(1)
    network.start(1, without=(3,))
    network.start(2)
    network.settle()
    assert network.clusters == 2
    assert network.phase(2) is Phase.FOUNDED


def test_a_lost_replica_of_the_meta_group_is_never_created_again_from_the_record() -> None:
    network = founded()
    network.kill(2)
    network.start(2)
    # As after the loss of the replica itself, with the cluster file intact.
    boot = network.machines[NodeId(2)].boot
    assert boot is not None
    assert not boot.has_meta
    network.settle()
    assert network.machines[NodeId(2)].created == [2]
    assert boot.meta_seed() is None


def test_a_word_given_while_the_node_runs_takes_effect_and_holds_over_a_restart() -> None:
    network = Network()
    network.start(1, 2)
    network.settle()
    boot = network.machines[NodeId(1)].boot
    assert boot is not None
    boot.leave_out([NodeId(3)])
    network.tick(1)
    network.kill(1)
    network.start(1)
    network.settle()
    assert (network.phase(1), network.phase(2)) == (Phase.FOUNDED, Phase.FOUNDED)
    record = network.machines[NodeId(1)].durable.record
    assert record is not None
    assert record.without == (3,)


@pytest.mark.parametrize(
    ("number", "without", "why"),
    [
        (1, (4,), "--without 4: not other nodes"),
        (1, (1,), "--without 1: not other nodes"),
        (1, (2, 3), "no majority"),
        (3, (1,), "node 2 founds the cluster: say it there"),
    ],
)
def test_a_word_that_does_not_fit_is_refused(number: int, without: tuple[int, ...], why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        machine(number).leave_out(tuple(map(NodeId, without)))


def test_a_word_to_a_member_comes_too_late() -> None:
    boot = founded().machines[NodeId(1)].boot
    assert boot is not None
    with pytest.raises(InvalidArgumentError, match=r"belongs to cluster .* already"):
        boot.leave_out([NodeId(3)])


# One machine, message by message.


def machine(number: int = 2, state: ClusterState | None = None) -> FirstBootMachine:
    plan = FirstBoot("test", (NodeId(1), NodeId(2), NodeId(3)))
    network = Network()
    return FirstBootMachine(plan, network.machines[NodeId(number)].row, state or ClusterState(), lambda: b"n" * 16)


ASKER = Network().machines[NodeId(1)]
OTHER = Network().machines[NodeId(3)]


def test_a_promise_is_saved_before_it_is_given() -> None:
    step = machine().on_message(NodeId(1), ASKER.incarnation, Ask(b"c" * 16, ()))
    assert step.save is not None
    assert (step.save.phase, step.save.cluster_id, step.save.asker) == (Phase.PROMISED, b"c" * 16, 1)
    assert [type(message) for _, message in step.sends] == [Promise]


def test_a_node_that_is_not_the_lowest_is_refused() -> None:
    step = machine().on_message(NodeId(3), OTHER.incarnation, Ask(b"c" * 16, ()))
    assert step.save is None
    ((to, refusal),) = step.sends
    assert to == 3
    assert isinstance(refusal, Refusal)
    assert refusal.why == "node 1 founds the cluster, not node 3"


def test_a_node_that_was_left_out_refuses() -> None:
    step = machine().on_message(NodeId(1), ASKER.incarnation, Ask(b"c" * 16, (NodeId(2),)))
    ((_, refusal),) = step.sends
    assert isinstance(refusal, Refusal)
    assert refusal.why == "node 2 was left out"


def test_a_record_without_a_promise_is_refused() -> None:
    network = founded()
    record = network.machines[NodeId(1)].durable.record
    assert record is not None
    step = machine().on_message(NodeId(1), ASKER.incarnation, Record(record))
    assert step.save is None
    assert [type(message) for _, message in step.sends] == [Refusal]


def test_a_record_that_names_another_life_of_this_node_is_refused() -> None:
    network = founded()
    record = network.machines[NodeId(1)].durable.record
    assert record is not None
    network.wipe(2)
    promised = ClusterState(Phase.PROMISED, record.cluster_id, "test", NodeId(1), ASKER.incarnation)
    plan = FirstBoot("test", (NodeId(1), NodeId(2), NodeId(3)))
    boot = FirstBootMachine(plan, network.machines[NodeId(2)].row, promised, lambda: b"n" * 16)
    step = boot.on_message(NodeId(1), ASKER.incarnation, Record(record))
    assert [type(message) for _, message in step.sends] == [Refusal]


def test_a_record_is_acknowledged_again_to_who_did_not_hear() -> None:
    network = founded()
    state = network.machines[NodeId(2)].durable
    recorded = ClusterState(Phase.RECORDED, state.cluster_id, "test", NodeId(1), ASKER.incarnation, record=state.record)
    assert state.record is not None
    step = machine(state=recorded).on_message(NodeId(1), ASKER.incarnation, Record(state.record))
    assert step.sends == ((NodeId(1), Recorded(state.cluster_id)),)


def test_a_promise_of_another_life_does_not_count() -> None:
    boot = machine(1)
    boot.on_peer(NodeId(2), b"x" * 16)
    boot.on_tick()
    other = Network().machines[NodeId(2)]
    for node, incarnation in ((NodeId(2), b"x" * 16), (NodeId(3), other.incarnation)):
        boot.on_message(node, incarnation, Promise(b"n" * 16, other.row))
    assert boot.state.phase is Phase.PROMISED
    assert boot.problems()[0].startswith("waits for node 2")


def test_a_member_answers_a_question_with_where_it_stands() -> None:
    member = ClusterState(Phase.FOUNDED, b"c" * 16, "test", NodeId(1), ASKER.incarnation)
    step = machine(state=member).on_message(NodeId(1), b"y" * 16, Ask(b"d" * 16, ()))
    assert step.save is None
    assert step.sends == ((NodeId(1), Standing(Phase.FOUNDED, b"c" * 16)),)


def test_who_holds_the_record_of_one_cluster_and_sees_another_says_so_and_joins_neither() -> None:
    network = founded()
    state = network.machines[NodeId(2)].durable
    recorded = ClusterState(Phase.RECORDED, b"d" * 16, "test", NodeId(1), ASKER.incarnation, record=state.record)
    boot = machine(state=recorded)
    boot.on_peer(NodeId(3), OTHER.incarnation)
    step = boot.on_message(NodeId(3), OTHER.incarnation, Standing(Phase.FOUNDED, b"c" * 16))
    assert (step.save, step.sends) == (None, ())
    assert "empty this node's data directory" in boot.problems()[0]


def test_a_record_of_another_cluster_than_the_one_promised_to_is_refused() -> None:
    network = founded()
    record = network.machines[NodeId(2)].durable.record
    assert record is not None
    for promised in (
        ClusterState(Phase.PROMISED, b"d" * 16, "test", NodeId(1), ASKER.incarnation),
        ClusterState(Phase.PROMISED, record.cluster_id, "test", NodeId(1), b"z" * 16),
    ):
        step = machine(state=promised).on_message(NodeId(1), ASKER.incarnation, Record(record))
        assert step.save is None
        assert [type(message) for _, message in step.sends] == [Refusal]


def test_an_acknowledgement_of_another_life_does_not_count() -> None:
    network = founded()
    state = network.machines[NodeId(1)].durable
    recorded = ClusterState(Phase.RECORDED, state.cluster_id, "test", NodeId(1), ASKER.incarnation, record=state.record)
    boot = machine(1, recorded)
    for node in (NodeId(2), NodeId(3)):
        assert boot.on_message(node, b"x" * 16, Recorded(state.cluster_id)).save is None
    assert boot.state.phase is Phase.RECORDED


def test_a_promise_is_forgotten_when_its_node_comes_back_with_another_disk() -> None:
    boot = machine(1)
    boot.on_tick()
    for number in (2, 3):
        peer = Network().machines[NodeId(number)]
        boot.on_peer(peer.node, peer.incarnation)
        if number == 2:
            boot.on_message(peer.node, peer.incarnation, Promise(b"n" * 16, peer.row))
            boot.on_peer_gone(peer.node)
            boot.on_peer(peer.node, b"x" * 16)
        else:
            boot.on_message(peer.node, peer.incarnation, Promise(b"n" * 16, peer.row))
    assert boot.state.phase is Phase.PROMISED
    assert boot.problems() == ["waits for node 2 to promise"]


def test_of_two_operators_words_the_first_holds() -> None:
    promised = ClusterState(Phase.PROMISED, b"d" * 16, "test", NodeId(2), b"y" * 16, (NodeId(1),))
    step = machine(3, promised).on_message(NodeId(1), ASKER.incarnation, Ask(b"c" * 16, (NodeId(2),)))
    assert step.save is None
    assert [type(message) for _, message in step.sends] == [Refusal]


def test_an_operators_word_does_not_undo_the_record_of_another_asker() -> None:
    network = founded()
    state = network.machines[NodeId(2)].durable
    recorded = ClusterState(Phase.RECORDED, state.cluster_id, "test", NodeId(1), ASKER.incarnation, record=state.record)
    plan = FirstBoot("test", (NodeId(1), NodeId(2), NodeId(3)), (NodeId(1),))
    boot = FirstBootMachine(plan, network.machines[NodeId(2)].row, recorded, lambda: b"n" * 16)
    assert boot.on_tick().save is None
    assert boot.state == recorded
