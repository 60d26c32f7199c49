"""Whole nodes on trio: founding, serving, failing over, coming back and being replaced, over loopback TCP."""

from __future__ import annotations

import errno
import random
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from logbroker.config import Settings
from logbroker.errors import (
    ConfigurationError,
    DamageError,
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    ShuttingDownError,
    StoreFailedError,
    UnavailableError,
    UnknownOutcomeError,
)
from logbroker.ids import DEFAULT_GROUP, META_GROUP, GroupId, GroupName, NodeId, Offset, QueueName
from logbroker.node.broker import Broker, BrokerArguments
from logbroker.node.catalogue.commands import AlterQueue, DeleteQueue
from logbroker.node.cluster_file import COPIES
from logbroker.node.partition_service import PartitionService
from logbroker.node.requests import (
    AckRequest,
    CreateGroupRequest,
    EarliestTarget,
    GroupReply,
    ProduceReply,
    ProduceRequest,
    ReceiveReply,
    ReceiveRequest,
    SettleReply,
    StateReply,
    StateRequest,
)
from logbroker.record.batch import Record, decode_batch, encode_batch
from logbroker.storage.disk import DataDirectoryInUseError, RealFile
from tests.node_kit.nodes import Nodes, running_nodes, until

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker.ids import LeaseId


def batch(*values: bytes) -> bytes:
    return encode_batch([Record(value) for value in values])


async def produce(nodes: Nodes, group: GroupId, *values: bytes) -> ProduceReply:
    reply = await nodes.ask(group, ProduceRequest(batch(*values)))
    assert isinstance(reply, ProduceReply)
    return reply


async def receive(nodes: Nodes, group: GroupId, *, wait_ms: int = 5_000) -> tuple[LeaseId, list[bytes | None]]:
    reply = await nodes.ask(group, ReceiveRequest(DEFAULT_GROUP, 100, 30_000, wait_ms=wait_ms))
    assert isinstance(reply, ReceiveReply)
    values = []
    for part in reply.parts:
        records = decode_batch(part.batch)
        values += [records[at - part.base_offset].value for start, end, _ in part.ranges for at in range(start, end)]
    return reply.lease, values


async def ack(nodes: Nodes, group: GroupId, lease: LeaseId, start: int, end: int) -> int:
    reply = await nodes.ask(group, AckRequest(DEFAULT_GROUP, ((lease, ((start, end),)),)))
    assert isinstance(reply, SettleReply)
    return reply.results[0].done_count


async def state(nodes: Nodes, group: GroupId) -> StateReply:
    reply = await nodes.ask(group, StateRequest())
    assert isinstance(reply, StateReply)
    return reply


async def test_a_single_node_founds_its_cluster_at_once_and_serves(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        await nodes.start(1)
        (group,) = await nodes.create_queue("orders")
        assert (await produce(nodes, group, b"a", b"b")).base_offset == 0
        lease, values = await receive(nodes, group)
        assert values == [b"a", b"b"]
        assert await ack(nodes, group, lease, 0, 2) == 2


async def test_three_nodes_found_one_cluster_and_carry_messages(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
        assert len({broker.status().cluster_id for broker in nodes.brokers.values()}) == 1
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a", b"b")
        lease, values = await receive(nodes, group)
        assert values == [b"a", b"b"]
        assert await ack(nodes, group, lease, 0, 2) == 2
        assert await state(nodes, group) is not None
        await until(lambda: not any(nodes.problems().values()), f"no problems; {nodes.problems()}")


async def test_the_death_of_a_leader_loses_no_message_and_takes_no_second_election_timeout(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a")
        old = nodes.leader(group)
        before = trio.current_time()
        await nodes.kill(old)
        await until(lambda: nodes.leader(group) != 0, f"a new leader; {nodes.problems()}")
        # The closed connection starts the pre-vote, long before the election timeout of 1 to 2 s would.
        assert trio.current_time() - before < 0.9
        assert (await produce(nodes, group, b"b")).base_offset == 1
        _, values = await receive(nodes, group)
        assert values == [b"a", b"b"]
        # The one that died comes back and holds everything.
        await nodes.start(old)
        await nodes.ready(old)
        ahead = nodes.brokers[nodes.leader(group)].status()
        want = next(status.commit for status in ahead.groups if status.group == group)
        await until(
            lambda: any(g.group == group and g.applied >= want for g in nodes.brokers[old].status().groups),
            "the restarted node catches up",
        )


async def test_all_nodes_may_be_killed_and_come_back_with_what_was_acknowledged(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a", b"b", b"c")
        lease, _ = await receive(nodes, group)
        assert await ack(nodes, group, lease, 0, 1) == 1
        for number in (1, 2, 3):
            await nodes.kill(number)
        await nodes.start(1, 2, 3)
        assert await ack(nodes, group, lease, 1, 3) == 2
        (counts,) = (await state(nodes, group)).groups
        assert (counts.available, counts.leased, counts.oldest_offset) == (0, 0, 3)


async def test_a_stopped_leader_hands_over_before_it_goes(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a")
        old = nodes.leader(group)
        followers = [broker for number, broker in nodes.brokers.items() if number != old]
        await nodes.stop(old)
        # Somebody else leads already as the old one ends, and the way there was no election after a silence.
        assert any(g.is_leader for broker in followers for g in broker.status().groups if g.group == group)
        assert (await produce(nodes, group, b"b")).base_offset == 1


async def test_a_node_with_an_emptied_disk_comes_back_as_a_learner_with_new_replicas(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a")
        leaders = {nodes.leader(group), nodes.leader(META_GROUP)}
        victim = next(number for number in (3, 2, 1) if number not in leaders)
        before = {status.group: status.replica for status in nodes.brokers[victim].status().groups}
        await nodes.kill(victim)
        nodes.wipe(victim)
        await nodes.start(victim)

        await until(
            lambda: is_whole(nodes, victim, META_GROUP, group), f"new voters on the emptied node; {nodes.problems()}"
        )
        after = {status.group: status.replica for status in nodes.brokers[victim].status().groups}
        assert not set(before.values()) & set(after.values())
        leader = nodes.brokers[nodes.leader(META_GROUP)].catalogue
        await until(lambda: leader.unsettled_groups() == [], "the old replicas are gone from the catalogue")
        # It counts: with one of the others away, it and the last one are a majority.
        other = next(number for number in (1, 2, 3) if number != victim)
        await nodes.kill(other)
        assert (await produce(nodes, group, b"b")).base_offset == 1


async def test_replicas_whose_votes_are_lost_are_replaced_by_new_ones_on_the_same_node(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a")
        await until(lambda: len(nodes.brokers[3].status().groups) == 2, "node 3 has both groups")
        before = {status.replica for status in nodes.brokers[3].status().groups}
        await nodes.kill(3)
        for name in ("vote.a", "vote.b"):
            path = nodes.directory(3) / name
            path.write_bytes(bytes(path.stat().st_size))
        await nodes.start(3)
        status = nodes.brokers[3].status()
        assert status.phase == "founded"
        assert sum("is lost and waits for its replacement" in problem for problem in status.problems) == 2
        await until(
            lambda: is_whole(nodes, 3, META_GROUP, group) and not any(nodes.problems().values()),
            f"new voters on node 3; {nodes.problems()}",
        )
        assert not before & {status.replica for status in nodes.brokers[3].status().groups}


def is_whole(nodes: Nodes, number: int, *groups: GroupId) -> bool:
    """Whether a node holds all these groups, as a voter of each, and no node is between two configurations."""
    held = {status.group: status for status in nodes.brokers[number].status().groups}
    if not set(groups) <= held.keys() or any(status.replica not in status.voters for status in held.values()):
        return False
    return not any(status.problems for broker in nodes.brokers.values() for status in broker.status().groups)


async def test_a_first_boot_waits_for_a_missing_node_and_names_it(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 3)
        await until(
            lambda: any("waits for node 2" in problem for problem in nodes.brokers[1].status().problems),
            f"node 1 names node 2; {nodes.problems()}",
        )
        assert not nodes.brokers[1].status().is_ready
        with pytest.raises(UnavailableError):
            _ = nodes.brokers[1].catalogue
        await nodes.start(2)
        await nodes.ready(1, 2, 3)


async def test_an_operator_may_go_without_a_node_which_joins_later(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, without=(3,))
        await nodes.start(2)
        await nodes.ready(1, 2)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a")
        await nodes.start(3)
        await until(lambda: is_whole(nodes, 3, META_GROUP, group), f"node 3 has all groups; {nodes.problems()}")


async def test_the_word_to_go_without_a_node_may_be_given_while_the_others_wait(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2)
        await until(lambda: any("waits for node 3" in p for p in nodes.brokers[1].status().problems), "node 3 is named")
        nodes.brokers[1].bootstrap_without([NodeId(3)])
        await nodes.ready(1, 2)


async def test_a_deleted_queue_leaves_no_replica_behind(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a")
        await nodes.propose(DeleteQueue(QueueName("orders")))
        await until(
            lambda: all(
                [status.group for status in broker.status().groups] == [META_GROUP] for broker in nodes.brokers.values()
            ),
            "all replicas removed",
        )
        with pytest.raises(NotLeaderError):
            await nodes.brokers[1].ask(group, StateRequest())


async def test_only_the_meta_leader_takes_commands_and_the_others_name_it(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
        leader = (await nodes.led()).node
        other = next(broker for number, broker in nodes.brokers.items() if number != leader)
        with pytest.raises(NotLeaderError) as caught:
            await other.propose_catalogue(DeleteQueue(QueueName("orders")))
        assert caught.value.leader == leader
        assert isinstance(await nodes.refused(DeleteQueue("orders")), NotFoundError)  # type: ignore[arg-type]


async def test_a_minority_says_whom_it_hears(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
        await nodes.kill(2)
        await nodes.kill(3)
        await until(
            lambda: any("hears none of nodes 2, 3" in problem for problem in nodes.brokers[1].status().problems),
            f"node 1 says that it is alone; {nodes.problems()}",
        )
        assert not nodes.brokers[1].status().is_ready


async def test_a_cancelled_receive_gives_its_lease_back(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        await nodes.start(1)
        (group,) = await nodes.create_queue("orders")
        broker = await nodes.led(group)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.ask, group, ReceiveRequest(DEFAULT_GROUP, 1, 30_000, wait_ms=20_000))
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.cancel_scope.cancel()
        await produce(nodes, group, b"a")
        _, values = await receive(nodes, group)
        assert values == [b"a"]


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_whoever_waits_for_a_node_that_goes_is_told(tmp_path: Path, how: str) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        await nodes.start(1)
        (group,) = await nodes.create_queue("orders")
        broker = await nodes.led(group)

        async def waits() -> None:
            with pytest.raises(UnavailableError):
                await broker.ask(group, ReceiveRequest(DEFAULT_GROUP, 1, 30_000, wait_ms=30_000))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waits)
                await trio.testing.wait_all_tasks_blocked(0.02)
                await (nodes.stop(1) if how == "stop" else nodes.kill(1))


async def test_a_leader_whose_sync_does_not_return_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a")
        old = nodes.leader(group)
        stuck, may_go_on, sync = str(nodes.directory(old)), threading.Event(), RealFile.sync

        def hang(file: RealFile) -> None:
            if str(file._disk.root) == stuck:
                may_go_on.wait(60)
            sync(file)

        async def produces() -> None:
            # The two followers are a majority by themselves, so it may succeed; it must not wait for ever.
            with suppress(UnknownOutcomeError):
                await nodes.brokers[old].ask(group, ProduceRequest(batch(b"b")))

        monkeypatch.setattr(RealFile, "sync", hang)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produces)
                await until(lambda: nodes.leader(group) not in (0, old), f"another leader; {nodes.problems()}")
            assert any("on its way to the disk" in problem for problem in nodes.brokers[old].status().problems)
            assert (await produce(nodes, group, b"c")).base_offset >= 1
        finally:
            may_go_on.set()


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        await nodes.ready(1, 2, 3)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("logbroker-")]
    assert left == []
    assert threading.active_count() <= before + 3  # trio keeps idle threads of its own pool for a while


async def test_a_failed_sync_ends_the_node_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[Broker] = []

    async def runs() -> None:
        async with running_nodes(tmp_path, 1) as nodes:
            await nodes.start(1)
            (group,) = await nodes.create_queue("orders")
            failed.append(await nodes.led(group))
            # Not the write of the batch fails but its sync: nothing may be written any more, and nobody is confirmed.
            monkeypatch.setattr("os.fdatasync", _no_sync)
            with pytest.raises(UnknownOutcomeError):
                await failed[0].ask(group, ProduceRequest(batch(b"a")))
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await runs()
    assert caught.group_contains(StoreFailedError, match="sync failed")
    with pytest.raises(ShuttingDownError):
        await failed[0].ask(GroupId(1), StateRequest())


def _no_sync(handle: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


async def test_questions_reach_the_leader_from_any_node(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await produce(nodes, group, b"a", b"b")
        other = next(broker for number, broker in nodes.brokers.items() if number != nodes.leader(group))
        await until(lambda: other.leader_node(group) is not None, "the follower knows the leader")
        reply = await other.ask_leader(group, StateRequest())
        assert isinstance(reply, StateReply)
        assert reply.log_end == 2
        created = await other.ask_leader(group, CreateGroupRequest(GroupName("billing"), EarliestTarget()))
        assert created == GroupReply(GroupName("billing"), Offset(0))
        assert other.term(group) == nodes.brokers[nodes.leader(group)].term(group) > 0


async def test_the_settings_of_a_queue_reach_its_partitions_and_a_changed_address_the_catalogue(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        await nodes.propose(AlterQueue(QueueName("orders"), retention_ms=60_000))
        await until(lambda: _retention_s(nodes.brokers[2], group) == 60, "the partition has the new retention")
        await nodes.kill(3)
        nodes.move(3)
        await nodes.start(3)
        await until(
            lambda: (
                (row := nodes.brokers[1].catalogue.node(NodeId(3))) is not None
                and row.peer_address == nodes.settings(3).peer_address
            ),
            "the catalogue has the new address",
        )
        await until(lambda: not any(nodes.problems().values()), f"all connected; {nodes.problems()}")


def _retention_s(broker: Broker, group: GroupId) -> int:
    engine = broker._engine
    service = None if engine is None else engine.services.get(group)
    return service.settings.retention_s if isinstance(service, PartitionService) else 0


async def test_a_node_number_belongs_to_one_data_directory(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        await nodes.start(1)
        with pytest.raises(DataDirectoryInUseError):
            await Broker(nodes.settings(1)).run()


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        settings = nodes.settings(1)
        listeners = await trio.open_tcp_listeners(settings.listeners.peer.port, host="127.0.0.1")
        with pytest.raises(ConfigurationError, match=r"listeners\.peer cannot listen on 127\.0\.0\.1"):
            await Broker(settings).run()
        for listener in listeners:
            await listener.aclose()


async def test_a_data_directory_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        await nodes.start(1)
        await nodes.ready(1)
        await nodes.stop(1)
        sections = nodes.settings(1).model_dump()
        sections["cluster"]["name"] = "other"
        with pytest.raises(ConfigurationError, match="belongs to cluster 'test', the configuration says 'other'"):
            await Broker(Settings.model_validate(sections)).run()


async def test_a_node_that_cannot_tell_its_cluster_does_not_start(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 1) as nodes:
        await nodes.start(1)
        await nodes.ready(1)
        await nodes.kill(1)
        for name in COPIES:
            (nodes.directory(1) / name).write_text("{}")
        with pytest.raises(DamageError, match="this node's cluster is not known"):
            await Broker(nodes.settings(1)).run()


async def test_a_learner_is_filled_with_megabytes(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, 3) as nodes:
        await nodes.start(1, 2, 3)
        (group,) = await nodes.create_queue("orders")
        noise = random.Random(1)
        for _ in range(40):
            await produce(nodes, group, noise.randbytes(200_000))
        leaders = {nodes.leader(group), nodes.leader(META_GROUP)}
        victim = next(number for number in (3, 2, 1) if number not in leaders)
        await nodes.kill(victim)
        nodes.wipe(victim)
        await nodes.start(victim)
        await until(lambda: is_whole(nodes, victim, META_GROUP, group), f"all of it; {nodes.problems()}")
        other = next(number for number in (1, 2, 3) if number not in (victim, nodes.leader(group)))
        await nodes.kill(other)
        assert (await state(nodes, group)).log_end == 40
        flushes = [broker.statistics().engine.flushes for broker in nodes.brokers.values()]
        assert min(flushes) > 0


def test_an_operator_may_leave_out_only_nodes_that_exist(tmp_path: Path) -> None:
    settings = Settings.model_validate({"node": {"data_dir": tmp_path}})
    with pytest.raises(InvalidArgumentError, match="--without 5: not other nodes"):
        Broker(settings, BrokerArguments((NodeId(5),)))
