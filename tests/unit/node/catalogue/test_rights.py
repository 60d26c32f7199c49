"""Rights: one function decides, and it denies unless something grants."""

from __future__ import annotations

import itertools

import pytest

from logbroker.errors import ForbiddenError, InvalidArgumentError
from logbroker.node.catalogue.rights import (
    ALL_RIGHTS,
    ANYBODY,
    CLUSTER,
    EVERYTHING,
    NO_RIGHTS,
    ROOT,
    Grant,
    Principal,
    Rights,
    allows,
    parse_grant,
    require,
)

QUEUES = ["orders", "orders-eu", "order", "other", CLUSTER]
PATTERNS = {
    "orders": {"orders"},
    "orders*": {"orders", "orders-eu"},
    "orders-*": {"orders-eu"},
    "o*": {"orders", "orders-eu", "order", "other"},
    "*": set(QUEUES),
}


@pytest.mark.parametrize(
    ("pattern", "right", "asked", "queue"), list(itertools.product(PATTERNS, Rights, Rights, QUEUES))
)
def test_a_grant_gives_its_right_on_the_queues_of_its_pattern_and_nothing_else(
    pattern: str, right: Rights, asked: Rights, queue: str
) -> None:
    expected = right == asked and queue in PATTERNS[pattern]
    assert allows([Grant(pattern, int(right))], asked, queue) is expected


def test_nothing_is_allowed_without_a_grant_and_no_right_at_all_is_never_allowed() -> None:
    for right, queue in itertools.product([*Rights, ALL_RIGHTS], QUEUES):
        assert not allows([], right, queue)
    assert not allows([EVERYTHING], NO_RIGHTS, "orders")


def test_only_the_pattern_for_everything_reaches_the_cluster() -> None:
    every_other = [Grant(pattern, int(ALL_RIGHTS)) for pattern in PATTERNS if pattern != "*"]
    assert not allows(every_other, Rights.ADMIN, CLUSTER)


def test_two_rights_must_come_from_one_grant() -> None:
    grants = [Grant("orders", int(Rights.PRODUCE)), Grant("orders", int(Rights.CONSUME))]
    assert not allows(grants, Rights.PRODUCE | Rights.CONSUME, "orders")
    assert allows(grants, Rights.CONSUME, "orders")


def test_whoever_may_not_is_told_what_and_where() -> None:
    ann = Principal("ann", (Grant("orders", int(Rights.CONSUME)),))
    require(ann, Rights.CONSUME, "orders")
    with pytest.raises(ForbiddenError) as raised:
        require(ann, Rights.REWIND, "orders")
    assert raised.value.message == "ann has no right to rewind on queue orders"
    with pytest.raises(ForbiddenError, match="no right to admin on the cluster"):
        require(ann, Rights.ADMIN, CLUSTER)


@pytest.mark.parametrize("principal", [ROOT, ANYBODY])
@pytest.mark.parametrize("queue", QUEUES)
def test_root_and_a_cluster_without_tokens_allow_everything(principal: Principal, queue: str) -> None:
    for right in Rights:
        require(principal, right, queue)


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("orders:produce", Grant("orders", 1)),
        ("orders-*:produce, consume", Grant("orders-*", 3)),
        ("*:all", EVERYTHING),
        ("q:rewind,purge,admin", Grant("q", 28)),
    ],
)
def test_a_grant_is_read_and_written_alike(text: str, grant: Grant) -> None:
    assert parse_grant(text) == grant
    assert parse_grant(str(grant)) == grant


@pytest.mark.parametrize(
    "text", ["", "orders", "orders:", "orders:fly", ":produce", "Or:produce", "a*b:produce", "..:all"]
)
def test_a_grant_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_grant(text)


def test_an_unknown_right_names_the_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match="produce, consume, rewind, purge, admin and all"):
        parse_grant("q:fly")
