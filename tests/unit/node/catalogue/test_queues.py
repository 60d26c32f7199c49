"""Queues and tokens."""

from __future__ import annotations

import pytest

from logbroker.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, RequestTooLargeError
from logbroker.ids import GroupId, QueueName
from logbroker.node.catalogue import CatalogueLimits, Done, QueueGone, QueueStands, Refused
from logbroker.node.catalogue.bounds import MAX_PARTITIONS_PER_QUEUE
from logbroker.node.catalogue.commands import AlterQueue, CreateQueue, CreateToken, DeleteQueue, DeleteToken
from logbroker.node.catalogue.rights import Grant, Rights
from logbroker.node.catalogue.rows import QueueSettings
from tests.unit.node.catalogue.kit import START_MS, cluster, create, expect, run

Q = QueueName("q")


def token(name: str, *, secret: int = 1, grants: int = 1) -> CreateToken:
    given = tuple(Grant(f"q{n}", int(Rights.PRODUCE)) for n in range(grants))
    return CreateToken(name, bytes([secret]) * 32, given)


def test_each_partition_is_a_group_with_a_voter_on_each_member_and_another_first_one() -> None:
    catalogue = cluster()
    queue = create(catalogue, "q", partitions=4)
    assert queue.groups == (1, 2, 3, 4)
    assert (queue.queue_id, queue.routing_epoch, queue.created_ms) == (1, 1, START_MS)
    rows = [catalogue.group(group) for group in queue.groups]
    assert [row.partition for row in rows if row] == [0, 1, 2, 3]
    assert [[r.node for r in row.replicas] for row in rows if row] == [[2, 3, 1], [3, 1, 2], [1, 2, 3], [2, 3, 1]]
    assert [row.initial for row in rows if row] == [(4, 5, 6), (7, 8, 9), (10, 11, 12), (13, 14, 15)]
    assert [catalogue.homes(GroupId(group)) for group in (2, 9)] == [[3, 1, 2], []]


def test_creating_a_queue_again_finds_it_and_with_other_settings_is_refused() -> None:
    catalogue = cluster()
    queue = create(catalogue, "q")
    assert run(catalogue, CreateQueue(Q, QueueSettings())) == QueueStands(queue, already=True)
    refused = expect(Refused, run(catalogue, CreateQueue(Q, QueueSettings(hide_ms=1_000))))
    assert refused.kind is AlreadyExistsError


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "A", "ä", "a b", "a\n", "a\0", "q" * 201, "*", "q*"])
def test_a_name_outside_the_alphabet_is_refused(name: str) -> None:
    refused = expect(Refused, run(cluster(), CreateQueue(QueueName(name), QueueSettings())))
    assert refused.kind is InvalidArgumentError
    assert "queue name" in refused.message


def test_names_of_the_alphabet_are_taken() -> None:
    catalogue = cluster()
    for name in ("a", "0", "...", "a.b_c-9", "q" * 200):
        create(catalogue, name)
    assert len(catalogue.queues()) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (QueueSettings(partitions=0), "partitions 0 is below 1"),
        (QueueSettings(retention_ms=59_999), "retention_ms 59,999 is not between 60,000 and 1,296,000,000"),
        (QueueSettings(retention_ms=1_296_000_001), "retention_ms 1,296,000,001"),
        (QueueSettings(hide_ms=999), "hide_ms 999 is not between 1,000 and 43,200,000"),
        (QueueSettings(hide_ms=43_200_001), "hide_ms"),
        (QueueSettings(max_wait_ms=30_001), "max_wait_ms"),
        (QueueSettings(max_delivery_count=1_001), "max_delivery_count"),
    ],
)
def test_settings_outside_their_bounds_are_refused(settings: QueueSettings, message: str) -> None:
    catalogue = cluster()
    assert message in expect(Refused, run(catalogue, CreateQueue(Q, settings))).message
    create(catalogue, "q")
    changes = {name: getattr(settings, name) for name in QueueSettings.__struct_fields__}
    altered = expect(Refused, run(catalogue, AlterQueue(Q, **changes)))
    assert altered.kind is InvalidArgumentError


@pytest.mark.parametrize("retention_ms", [60_000, 1_296_000_000])
def test_retention_at_its_bounds_is_taken(retention_ms: int) -> None:
    expect(QueueStands, run(cluster(), CreateQueue(Q, QueueSettings(retention_ms=retention_ms))))


def test_an_alteration_changes_what_is_given_and_the_epoch_only_with_the_partitions() -> None:
    catalogue = cluster()
    create(catalogue, "q", partitions=2)
    hidden = expect(QueueStands, run(catalogue, AlterQueue(Q, hide_ms=5_000), ms=START_MS + 9)).queue
    assert hidden.settings == QueueSettings(partitions=2, hide_ms=5_000)
    assert (hidden.routing_epoch, hidden.created_ms, hidden.changed_ms) == (1, START_MS, START_MS + 9)
    grown = expect(QueueStands, run(catalogue, AlterQueue(Q, partitions=3))).queue
    assert (grown.routing_epoch, grown.groups) == (2, (1, 2, 3))
    assert expect(QueueStands, run(catalogue, AlterQueue(Q, partitions=3))).already


def test_partitions_never_shrink() -> None:
    catalogue = cluster()
    create(catalogue, "q", partitions=3)
    refused = expect(Refused, run(catalogue, AlterQueue(Q, partitions=2)))
    assert refused.message == "queue q has 3 partitions and cannot go back to 2"


def test_ids_of_a_deleted_queue_are_never_used_again() -> None:
    catalogue = cluster()
    first = create(catalogue, "q", partitions=2)
    assert run(catalogue, DeleteQueue(Q)) == QueueGone(first)
    assert all(catalogue.is_deleted(group) for group in first.groups)
    assert not catalogue.is_deleted(GroupId(3)), "never was"
    again = create(catalogue, "q")
    assert (again.queue_id, again.groups) == (2, (3,))
    row = catalogue.group(GroupId(3))
    assert row is not None
    assert min(row.initial) > 9


@pytest.mark.parametrize("command", [DeleteQueue(Q), AlterQueue(Q, hide_ms=1_000)])
def test_a_queue_that_is_not_there_is_named(command: DeleteQueue | AlterQueue) -> None:
    refused = expect(Refused, run(cluster(), command))
    assert (refused.kind, refused.message) == (NotFoundError, "there is no queue q")


def test_configured_limits_are_held_before_the_log_and_name_themselves() -> None:
    catalogue = cluster()
    create(catalogue, "a", partitions=2)
    limits = CatalogueLimits(max_queues=2, max_partitions_per_queue=3, max_partitions=4)

    def refusal(name: str, partitions: int) -> str:
        command = CreateQueue(QueueName(name), QueueSettings(partitions=partitions))
        outcome = catalogue.preview(command, limits, now_ms=START_MS)
        return outcome.message if isinstance(outcome, Refused) else ""

    assert refusal("b", 2) == ""
    assert "limits.max_partitions_per_queue is 3" in refusal("b", 4)
    assert refusal("b", 3) == "the cluster would have 5 partitions, limits.max_partitions is 4"
    create(catalogue, "b")
    assert refusal("c", 1) == "the cluster has 2 queues, limits.max_queues is 2"


def test_apply_holds_the_ceiling_whatever_the_configuration() -> None:
    catalogue = cluster()
    command = CreateQueue(Q, QueueSettings(partitions=MAX_PARTITIONS_PER_QUEUE + 1))
    refused = expect(Refused, run(catalogue, command))
    assert refused.kind is RequestTooLargeError
    assert catalogue.group(GroupId(1)) is None


def test_a_queue_beyond_a_limit_that_was_lowered_may_still_be_altered() -> None:
    catalogue = cluster()
    create(catalogue, "q", partitions=4)
    limits = CatalogueLimits(max_partitions_per_queue=2)
    expect(QueueStands, catalogue.preview(AlterQueue(Q, hide_ms=2_000), limits, now_ms=START_MS))
    expect(Refused, catalogue.preview(AlterQueue(Q, partitions=5), limits, now_ms=START_MS))


def test_a_preview_changes_nothing() -> None:
    catalogue = cluster()
    before = catalogue.digest()
    expect(QueueStands, catalogue.preview(CreateQueue(Q, QueueSettings()), CatalogueLimits(), now_ms=START_MS))
    assert catalogue.digest() == before


def test_a_token_is_found_by_its_digest_alone() -> None:
    catalogue = cluster()
    assert run(catalogue, token("ann")) == Done()
    assert run(catalogue, token("ann")) == Done(already=True)
    principal = catalogue.principal(b"\x01" * 32)
    assert principal is not None
    assert (principal.name, principal.grants) == ("ann", (Grant("q0", 1),))
    assert catalogue.principal(b"\x02" * 32) is None
    assert run(catalogue, DeleteToken("ann")) == Done()
    assert catalogue.principal(b"\x01" * 32) is None
    assert expect(Refused, run(catalogue, DeleteToken("ann"))).kind is NotFoundError


def test_a_name_or_a_secret_is_not_taken_twice() -> None:
    catalogue = cluster()
    run(catalogue, token("ann"))
    assert expect(Refused, run(catalogue, token("ann", secret=2))).kind is AlreadyExistsError
    assert expect(Refused, run(catalogue, token("bob", secret=1))).kind is AlreadyExistsError


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (token("Ann"), "token name"),
        (token("ann", grants=0), "0 grants; a token has 1 to 64"),
        (token("ann", grants=65), "65 grants"),
        (CreateToken("ann", bytes(32), (Grant("a*b*", 1),)), "pattern 'a*b*'"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(command: CreateToken, message: str) -> None:
    refused = expect(Refused, run(cluster(), command))
    assert message in refused.message


def test_the_number_of_tokens_is_limited() -> None:
    catalogue = cluster()
    run(catalogue, token("ann"))
    limits = CatalogueLimits(max_tokens=1, max_grants_per_token=1)
    outcome = catalogue.preview(token("bob", secret=2), limits, now_ms=START_MS)
    assert expect(Refused, outcome).message == "the cluster has 1 tokens, limits.max_tokens is 1"
    outcome = catalogue.preview(token("bob", secret=2, grants=2), limits, now_ms=START_MS)
    assert "limits.max_grants_per_token" in expect(Refused, outcome).message
