from __future__ import annotations

from logbroker.wire.requests import MetadataReply, NodeInfo, PartitionInfo, QueueInfo, QueueSettings
from logbroker_client.routing import Routes


def reply(*partitions: PartitionInfo, name: str = "orders") -> MetadataReply:
    queue = QueueInfo(name=name, queue_id=1, settings=QueueSettings(), partitions=list(partitions))
    return MetadataReply(1, nodes=[NodeInfo(node=1, url="ws://a"), NodeInfo(node=2, url="")], queues=[queue])


def partition(number: int = 0, *, leader: int = 0, term: int = 0) -> PartitionInfo:
    return PartitionInfo(partition=number, group=number + 1, leader=leader, term=term)


def leader_of(routes: Routes, number: int = 0) -> int:
    route = routes.partition("orders", number)
    assert route is not None
    return route.leader


def test_addresses_and_leaders_are_learned() -> None:
    routes = Routes()
    routes.learn(reply(partition(1, leader=2, term=3), partition(0, leader=1, term=9)), asked=["orders"])
    assert routes.urls == {1: "ws://a"}
    assert [leader_of(routes, 0), leader_of(routes, 1)] == [1, 2]
    assert routes.partition_count("orders") == 2
    assert routes.partition("orders", 2) is None
    assert routes.partition("other", 0) is None


def test_an_older_term_changes_nothing() -> None:
    routes = Routes()
    routes.learn(reply(partition(leader=2, term=5)), asked=None)
    routes.learn(reply(partition(leader=1, term=4)), asked=None)
    assert leader_of(routes) == 2


def test_a_leader_is_kept_while_its_term_knows_no_other() -> None:
    routes = Routes()
    routes.learn(reply(partition(leader=2, term=5)), asked=None)
    routes.learn(reply(partition(leader=0, term=5)), asked=None)
    assert leader_of(routes) == 2
    routes.learn(reply(partition(leader=0, term=6)), asked=None)
    assert leader_of(routes) == 0


def test_a_gap_in_the_partitions_ends_what_is_believed() -> None:
    routes = Routes()
    routes.learn(reply(partition(0), partition(2)), asked=None)
    assert routes.partition_count("orders") == 1


def test_queues_that_were_asked_for_and_are_missing_are_forgotten() -> None:
    routes = Routes()
    routes.learn(reply(partition()), asked=None)
    routes.learn(MetadataReply(1, nodes=[], queues=[]), asked=["ledger"])
    assert routes.partition_count("orders") == 1
    routes.learn(MetadataReply(1, nodes=[], queues=[]), asked=None)
    assert routes.partition_count("orders") == 0


def test_only_the_node_that_was_thought_to_lead_can_deny_it() -> None:
    routes = Routes()
    routes.learn(reply(partition(leader=2, term=5)), asked=None)
    routes.redirect("orders", 0, not_leader=3, leader=1, url="ws://a")
    assert leader_of(routes) == 2
    routes.redirect("orders", 0, not_leader=2, leader=3, url="ws://c")
    assert leader_of(routes) == 3
    assert routes.urls[3] == "ws://c"


def test_a_node_that_names_itself_in_its_denial_is_not_believed() -> None:
    routes = Routes()
    routes.learn(reply(partition(leader=2, term=5)), asked=None)
    routes.redirect("orders", 0, not_leader=2, leader=2, url="ws://b")
    assert leader_of(routes) == 0
