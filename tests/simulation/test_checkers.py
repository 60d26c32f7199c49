"""The checkers of a running cluster: each is shown a history that breaks its rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logbroker.entry import Entry, EntryKind
from logbroker.errors import InvariantError
from logbroker.ids import GroupId, Index, Offset, ReplicaId, Term
from logbroker.node.peer_messages import RaftMessage
from logbroker.raft.messages import Message, MessageKind
from logbroker.testing.checkers import GroupHistory, machine_of
from logbroker.testing.scenarios.cluster_script import GROUP, ClusterScript
from logbroker.testing.violation import Violation


def entry(index: int, *, term: int = 1, crc: int = 7) -> Entry:
    return Entry(EntryKind.NOOP, GroupId(1), Index(index), Term(term), Offset(0), Offset(0), 1_000, b"", crc)


def history() -> GroupHistory:
    made = GroupHistory(GroupId(1))
    for index in (1, 2):
        made.note_entry(entry(index), Term(min(index - 1, 1)), "node 1")
        made.note_committed(entry(index), "node 1")
    return made


def test_an_entry_with_another_content_under_the_same_name_is_caught() -> None:
    made = history()
    made.note_entry(entry(2), Term(1), "node 2")
    with pytest.raises(Violation, match="logs match"):
        made.note_entry(entry(2, crc=8), Term(1), "node 2")


def test_an_entry_behind_another_predecessor_is_caught() -> None:
    made = history()
    made.note_entry(entry(3, term=4), Term(1), "node 1")
    with pytest.raises(Violation, match="logs match"):
        made.note_entry(entry(3, term=4), Term(3), "node 2")


def test_another_entry_committed_at_the_same_index_is_caught() -> None:
    made = history()
    made.note_committed(entry(2), "node 2")
    with pytest.raises(Violation, match="committed stays"):
        made.note_committed(entry(2, term=3), "node 2")


def test_two_leaders_of_one_term_are_caught() -> None:
    made = history()
    made.note_leader(ReplicaId(1), Term(5))
    made.note_leader(ReplicaId(2), Term(6))
    with pytest.raises(Violation, match="one leader per term"):
        made.note_leader(ReplicaId(2), Term(5))


def test_two_votes_in_one_term_are_caught() -> None:
    made = history()
    made.note_vote(ReplicaId(1), Term(5), ReplicaId(2))
    made.note_vote(ReplicaId(1), Term(6), ReplicaId(3))
    with pytest.raises(Violation, match="one vote per term"):
        made.note_vote(ReplicaId(1), Term(5), ReplicaId(3))


def test_two_states_at_one_index_are_caught() -> None:
    made = history()
    made.note_digest(Index(16), b"one", "node 1")
    made.note_digest(Index(16), b"one", "node 2")
    assert made.compared_digests == 1
    with pytest.raises(Violation, match="equal logs make equal states"):
        made.note_digest(Index(16), b"other", "node 3")


@pytest.fixture
def script() -> ClusterScript:
    made = ClusterScript()
    made.produce(2, batches=3)
    made.run(300)
    return made


def test_an_acknowledgement_of_what_is_not_durable_is_caught(script: ClusterScript) -> None:
    follower = script.followers()[0]
    replica = follower.replica(GROUP)
    assert replica is not None
    last = replica.log.last_index()
    honest = Message(MessageKind.APPEND_RESPONSE, replica.core.leader, replica.id, replica.core.term, index=last)
    script.cluster.checker.on_sent(follower, RaftMessage(GROUP, honest))
    early = honest._replace(index=Index(last + 1))
    script.cluster.checker.on_sent(follower, RaftMessage(GROUP, early._replace(reject=True)))
    with pytest.raises(Violation, match="entries are durable before they are acknowledged"):
        script.cluster.checker.on_sent(follower, RaftMessage(GROUP, early))


def test_a_vote_that_is_not_durable_is_caught(script: ClusterScript) -> None:
    follower = script.followers()[0]
    replica = follower.replica(GROUP)
    assert replica is not None
    vote = Message(MessageKind.VOTE_RESPONSE, ReplicaId(1), replica.id, Term(replica.core.term + 1))
    with pytest.raises(Violation, match="a vote is durable before it is given"):
        script.cluster.checker.on_sent(follower, RaftMessage(GROUP, vote))


def test_a_log_that_lost_its_end_over_a_restart_is_caught(script: ClusterScript) -> None:
    node = script.followers()[0]
    node.kill()
    node.durable = {
        replica: replace(durable, last_index=Index(durable.last_index + 1), open_from=Index(durable.last_index + 2))
        for replica, durable in node.durable.items()
    }
    with pytest.raises(Violation, match="durable stays"):
        node.start()


def test_a_log_that_changed_its_end_over_a_restart_is_caught(script: ClusterScript) -> None:
    node = script.followers()[0]
    node.kill()
    node.durable = {
        replica: replace(durable, last_term=Term(durable.last_term + 1)) for replica, durable in node.durable.items()
    }
    with pytest.raises(Violation, match="another term"):
        node.start()


def test_a_replica_that_is_gone_after_a_restart_is_caught(script: ClusterScript) -> None:
    node = script.followers()[0]
    node.kill()
    some = next(iter(node.durable.values()))
    node.durable[ReplicaId(99)] = replace(some, replica=ReplicaId(99))
    with pytest.raises(Violation, match="is gone after a restart"):
        node.start()


def test_a_group_that_stops_is_caught(script: ClusterScript) -> None:
    node = script.leader()
    assert node.engine is not None
    node.engine.failed_groups[GROUP] = InvariantError("planted")
    with pytest.raises(Violation, match="groups do not fail"):
        script.run(200)


@pytest.mark.parametrize("what", ["term", "commit", "applied"])
def test_what_never_goes_back_is_caught_going_back(script: ClusterScript, what: str) -> None:
    replica = script.leader().replica(GROUP)
    assert replica is not None
    setattr(script.cluster.checker.seen(replica.id), what, 1_000_000)
    with pytest.raises(Violation, match="never goes back"):
        script.produce(1)


def test_a_state_that_differs_on_one_node_is_caught(script: ClusterScript) -> None:
    replica = script.followers()[0].replica(GROUP)
    assert replica is not None
    machine = machine_of(replica)
    machine.producers.record(9, epoch=0, base_sequence=0, count=1, base_offset=0, append_ms=machine.append_ms)
    with pytest.raises(Violation, match="equal logs make equal states"):
        script.produce(1, batches=40)


def test_a_node_that_stops_for_another_reason_than_its_disk_is_caught(script: ClusterScript) -> None:
    node = script.leader()
    assert node.engine is not None
    node.engine.failed = InvariantError("planted")
    with pytest.raises(Violation, match="nodes stop for a failed disk alone"):
        script.run(200)


def test_a_request_that_is_answered_twice_is_caught(script: ClusterScript) -> None:
    leader = script.leader()
    assert leader.engine is not None
    taken = leader.engine.submit

    def twice(group: GroupId, request: object, answer: object) -> None:
        def again(result: object) -> None:
            answer(result)  # type: ignore[operator]  # an Answer
            answer(result)  # type: ignore[operator]  # an Answer

        taken(group, request, again)  # type: ignore[arg-type]  # a Request and an Answer

    leader.engine.submit = twice  # type: ignore[method-assign]  # the planted bug
    with pytest.raises(Violation, match="every request is answered once"):
        script.produce(1)
