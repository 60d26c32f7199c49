from __future__ import annotations

from logbroker.ids import Index, ReplicaId
from logbroker.raft.messages import ReadState
from logbroker.raft.read_index import PendingReads
from tests.raft_kit import conf_of

CONF = conf_of(1, 2, 3)


def pending(*contexts: int) -> PendingReads:
    reads = PendingReads()
    for context in contexts:
        reads.add(ReadState(context, Index(7)))
        reads.on_echo(ReplicaId(1), reads.newest)
    return reads


def test_a_majority_of_echoes_confirms_every_read_up_to_it() -> None:
    reads = pending(11, 12, 13)
    assert reads.newest == 3
    assert reads.take_confirmed(CONF) == []
    reads.on_echo(ReplicaId(2), 2)
    assert [read.context for read in reads.take_confirmed(CONF)] == [11, 12]
    reads.on_echo(ReplicaId(3), 1)
    assert reads.take_confirmed(CONF) == []
    reads.on_echo(ReplicaId(3), 3)
    assert [read.context for read in reads.take_confirmed(CONF)] == [13]
    assert (reads.newest, len(reads)) == (0, 0)


def test_an_echo_of_an_older_read_does_not_confirm_a_newer_one_with_the_same_context() -> None:
    reads = pending(11)
    reads.on_echo(ReplicaId(2), 1)
    assert len(reads.take_confirmed(CONF)) == 1
    reads.add(ReadState(11, Index(9)))
    reads.on_echo(ReplicaId(1), reads.newest)
    reads.on_echo(ReplicaId(2), 1)
    assert reads.take_confirmed(CONF) == []


def test_an_echo_of_a_number_never_sent_confirms_no_later_read() -> None:
    reads = pending(11)
    reads.on_echo(ReplicaId(2), 1000)
    assert len(reads.take_confirmed(CONF)) == 1
    reads.add(ReadState(12, Index(9)))
    reads.on_echo(ReplicaId(1), reads.newest)
    assert reads.take_confirmed(CONF) == []
