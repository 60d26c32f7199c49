"""Any commands in any order: replicas agree, ids are never used twice, and a refusal changes nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logbroker.errors import CorruptBatchError
from logbroker.ids import GroupId, GroupName, NodeId, QueueName, ReplicaId
from logbroker.node.catalogue import Catalogue, Refused
from logbroker.node.catalogue.bounds import CEILINGS
from logbroker.node.catalogue.checkpoint import decode, encode_slices
from logbroker.node.catalogue.commands import (
    AlterQueue,
    AlterQueueWith,
    BeginRewind,
    Command,
    CreateQueue,
    CreateQueueWith,
    CreateToken,
    DeleteQueue,
    DeleteToken,
    FinishRewind,
    ForgetNode,
    JoinNode,
    PromoteReplica,
    RemoveReplica,
    SetMembers,
    StartMove,
    StopMove,
    decode_commands,
    encode_commands,
)
from logbroker.node.catalogue.rights import Grant
from logbroker.node.catalogue.rows import QueueSettings
from logbroker.node.catalogue.state import CatalogueState
from logbroker.partition.checkpoint import CheckpointMeta
from logbroker.wire.requests import EarliestTarget, MessageTarget, OffsetTarget, RelativeTarget, TimeTarget
from tests.unit.node.catalogue.kit import START_MS, apply, bootstrap, node, over, run

small = st.integers(0, 9)
nodes = st.integers(1, 5).map(NodeId)
groups = st.integers(0, 6).map(GroupId)
replicas = st.integers(0, 25).map(ReplicaId)
queues = st.sampled_from(["a", "b", "Bad name"]).map(QueueName)
targets = st.one_of(
    st.builds(TimeTarget, st.sampled_from([0, START_MS - 5, START_MS + 5])),
    st.builds(RelativeTarget, ms=st.sampled_from([0, 5]), count=st.sampled_from([0, 5])),
    st.builds(MessageTarget, st.lists(st.tuples(st.integers(0, 3), small), max_size=3)),
    st.builds(OffsetTarget, small),
    st.just(EarliestTarget()),
)
pairs = st.sampled_from([(), ((1, 5_000),), ((1, 0), (3, 4)), ((3, 11),), ((5, 1_000),), ((5, 999),)])
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(JoinNode, st.builds(node, nodes, alive=st.integers(1, 3))),
    st.builds(SetMembers, st.lists(nodes, max_size=4).map(tuple)),
    st.builds(ForgetNode, nodes),
    st.builds(StartMove, groups, replicas, nodes),
    st.builds(StopMove, groups, replicas),
    st.builds(PromoteReplica, groups, replicas),
    st.builds(RemoveReplica, groups, replicas),
    st.builds(CreateQueue, queues, st.builds(QueueSettings, partitions=st.integers(0, 3))),
    st.builds(AlterQueue, queues, st.one_of(st.none(), st.integers(0, 4)), hide_ms=st.sampled_from([None, 1, 5_000])),
    st.builds(CreateQueueWith, st.builds(CreateQueue, queues, st.builds(QueueSettings, partitions=st.just(1))), pairs),
    st.builds(AlterQueueWith, st.builds(AlterQueue, queues), pairs),
    st.builds(DeleteQueue, queues),
    st.builds(
        CreateToken, st.sampled_from(["ann", "bob"]), st.sampled_from([b"1" * 32, b"2" * 32]), st.just((Grant("*", 1),))
    ),
    st.builds(DeleteToken, st.sampled_from(["ann", "bob"])),
    st.builds(
        BeginRewind,
        operation_id=st.integers(0, 2),
        queue=queues,
        consumer_group=st.sampled_from(["default", "g"]).map(GroupName),
        target=targets,
        forward=st.booleans(),
        clamp=st.booleans(),
        actor=st.just(""),
        reason=st.just(""),
    ),
    st.builds(FinishRewind, st.integers(1, 4), st.integers(0, 3), small, small, small, st.just("")),
)
histories = st.lists(commands, max_size=40)

META = CheckpointMeta(ReplicaId(1), b"")


def check(catalogue: Catalogue) -> None:
    """What holds after every entry."""
    rows = {row.group: row for row in catalogue.groups()}
    owned = [group for queue in catalogue.queues() for group in queue.groups]
    assert sorted([0, *owned]) == sorted(rows)
    assert all(len(queue.groups) == queue.settings.partitions for queue in catalogue.queues())
    for row in rows.values():
        staying = [replica.node for replica in row.staying()]
        assert len(set(staying)) == len(staying), "two replicas of one node stay"
        assert staying, "a group without anybody who stays"
        for replica in row.replicas:
            waiting = row.replica(replica.replaces)
            assert waiting is None or waiting.state.name == "LEAVING", "replaces one that stays"
    replica_ids = [replica.replica for row in rows.values() for replica in row.replicas]
    assert len(set(replica_ids)) == len(replica_ids)


@given(histories)
def test_replicas_that_apply_or_restore_the_same_log_agree_and_ids_are_never_used_twice(history: list[Command]) -> None:
    leader, follower = Catalogue.new(), Catalogue.new()
    named: dict[int, tuple[int, int]] = {}
    for position, command in enumerate([bootstrap(1, 2, 3), *history]):
        run(leader, command)
        run(follower, command)
        check(leader)
        if position % 7 == 3:
            follower, _ = decode(b"".join(encode_slices(follower, META)))
        for row in leader.groups():
            for replica in row.replicas:
                assert named.setdefault(replica.replica, (row.group, replica.node)) == (row.group, replica.node)
    assert leader.digest() == follower.digest()


@given(histories, commands)
def test_a_preview_says_what_apply_does_and_a_refusal_changes_nothing(history: list[Command], last: Command) -> None:
    state = CatalogueState()
    catalogue = over(state)
    apply(catalogue, bootstrap(1, 2, 3), *history)
    before = state.clone(), catalogue.epoch
    foreseen = catalogue.preview(last, CEILINGS, now_ms=START_MS)
    assert (state, catalogue.epoch) == before
    outcome = run(catalogue, last)
    assert outcome == foreseen
    if isinstance(outcome, Refused):
        assert (state, catalogue.epoch) == before


@given(histories)
def test_a_group_settles_once_its_leader_has_done_what_the_rows_say(history: list[Command]) -> None:
    catalogue = Catalogue.new()
    apply(catalogue, bootstrap(1, 2, 3), *history)
    for row in catalogue.unsettled_groups():
        for replica in row.replicas:
            run(catalogue, PromoteReplica(row.group, replica.replica))
        for replica in row.replicas:
            run(catalogue, RemoveReplica(row.group, replica.replica))
    assert catalogue.unsettled_groups() == []
    check(catalogue)


@given(histories)
def test_commands_come_back_from_their_encoding(history: list[Command]) -> None:
    assert decode_commands(encode_commands(history)) == tuple(history)


@given(st.binary(max_size=200))
def test_bytes_from_anywhere_give_one_error_at_most(payload: bytes) -> None:
    for decoder in (decode_commands, decode):
        try:
            decoder(payload)
        except CorruptBatchError:
            continue
