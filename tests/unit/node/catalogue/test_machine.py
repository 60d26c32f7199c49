"""The catalogue as a state machine: entries in, outcomes out."""

from __future__ import annotations

import pytest

from logbroker.config.limits import Limits, bounds_of
from logbroker.config.settings import CLUSTER_SIZES, MAX_NODE_ID
from logbroker.entry import Entry, EntryKind
from logbroker.errors import CorruptBatchError, InvariantError
from logbroker.ids import META_GROUP, GroupId, Index, NodeId, Offset, QueueName, Term
from logbroker.node.catalogue import Catalogue, Done, QueueStands, Refused, bounds
from logbroker.node.catalogue.commands import CreateQueue, DeleteQueue, JoinNode, encode_commands
from logbroker.node.catalogue.rows import NodeRow, QueueSettings
from logbroker.partition.commands import Floor, encode_floor
from tests.unit.node.catalogue.kit import START_MS, apply, bootstrap, cluster, create, entry_of, expect, life


def test_the_commands_of_one_entry_see_each_other_and_are_answered_in_order() -> None:
    catalogue = Catalogue.new()
    applied = apply(catalogue, bootstrap(1), CreateQueue(QueueName("q"), QueueSettings()), DeleteQueue(QueueName("r")))
    boot, made, refused = applied.outcomes
    assert (applied.index, applied.changed, boot) == (1, True, Done())
    assert expect(QueueStands, made).queue.groups == (1,)
    assert expect(Refused, refused).message == "there is no queue r"


def test_the_epoch_grows_only_with_what_changes() -> None:
    catalogue = cluster()
    assert catalogue.epoch == 1
    assert not apply(catalogue, bootstrap(1, 2, 3), DeleteQueue(QueueName("none"))).changed
    assert catalogue.epoch == 1
    create(catalogue, "q")
    assert catalogue.epoch == 2


def test_log_time_never_goes_back() -> None:
    catalogue = cluster()
    create(catalogue, "a", ms=START_MS + 50)
    assert create(catalogue, "b", ms=START_MS).created_ms == START_MS + 50


@pytest.mark.parametrize("kind", [EntryKind.NOOP, EntryKind.CONFIG])
def test_entries_of_the_raft_core_only_move_the_index(kind: EntryKind) -> None:
    catalogue = cluster()
    applied = catalogue.apply(entry_of(catalogue, b"anything", kind=kind))
    assert (applied.outcomes, applied.changed, catalogue.applied_index) == ((), False, 2)


def test_a_floor_moves_the_log_start_forward_only() -> None:
    catalogue = cluster()
    for start_index, expected in ((5, 5), (3, 5), (9, 9)):
        catalogue.apply(entry_of(catalogue, encode_floor(Floor(0, start_index)), kind=EntryKind.FLOOR))
        assert catalogue.log_start_index == expected


def test_a_message_in_the_meta_group_is_refused_and_does_no_harm() -> None:
    catalogue = cluster()
    applied = catalogue.apply(entry_of(catalogue, b"", kind=EntryKind.DATA))
    assert expect(Refused, applied.outcomes[0]).message == "the meta group holds no messages"
    assert catalogue.next_offset == 0


def test_an_entry_out_of_its_order_or_group_breaks_an_invariant() -> None:
    catalogue = cluster()
    noop = Entry(EntryKind.NOOP, META_GROUP, Index(4), Term(1), Offset(0), Offset(0), START_MS, b"")
    with pytest.raises(InvariantError, match="entry 4 of the meta group applied after 1"):
        catalogue.apply(noop)
    stray = Entry(EntryKind.NOOP, GroupId(3), Index(2), Term(1), Offset(0), Offset(0), START_MS, b"")
    with pytest.raises(InvariantError, match="entry of group 3"):
        catalogue.apply(stray)


@pytest.mark.parametrize("kind", [EntryKind.STATE, EntryKind.FLOOR])
@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x91\x91\x7f", b"\xff" * 40])
def test_a_payload_that_is_none_changes_nothing(kind: EntryKind, payload: bytes) -> None:
    catalogue = cluster()
    before = catalogue.digest()
    with pytest.raises(CorruptBatchError):
        catalogue.apply(entry_of(catalogue, payload, kind=kind))
    assert catalogue.digest() == before


def test_a_field_that_a_newer_version_has_added_is_not_skipped() -> None:
    catalogue = cluster()
    payload = encode_commands([DeleteQueue(QueueName("q"))]).replace(b"\x92\x12", b"\x93\x12") + b"\x01"
    with pytest.raises(CorruptBatchError):
        catalogue.apply(entry_of(catalogue, payload))


def test_an_entry_holds_a_bounded_number_of_commands() -> None:
    catalogue = cluster()
    payload = encode_commands([DeleteQueue(QueueName("q"))] * (bounds.MAX_COMMANDS_PER_ENTRY + 1))
    with pytest.raises(CorruptBatchError, match="1025 commands in one entry"):
        catalogue.apply(entry_of(catalogue, payload))


def test_a_clone_and_its_origin_go_their_own_ways() -> None:
    catalogue = cluster()
    copy = catalogue.clone()
    assert copy.digest() == catalogue.digest()
    create(copy, "q")
    assert catalogue.queue("q") is None
    create(catalogue, "q")
    assert copy.digest() == catalogue.digest()


def test_the_digest_tells_states_apart_that_differ_in_one_address() -> None:
    first, second = cluster(), cluster()
    apply(first, JoinNode(NodeRow(NodeId(1), life(1), "a:1", "")))
    apply(second, JoinNode(NodeRow(NodeId(1), life(1), "b:1", "")))
    assert first.digest() != second.digest()


def test_the_ceilings_of_apply_are_the_largest_values_of_the_configuration() -> None:
    for name in bounds.CatalogueLimits.__dataclass_fields__:
        assert bounds_of(Limits.model_fields[name])[1] == getattr(bounds.CEILINGS, name), name
    assert max(CLUSTER_SIZES) == bounds.MAX_MEMBERS
    assert MAX_NODE_ID == 65_535
