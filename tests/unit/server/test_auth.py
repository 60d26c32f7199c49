"""Every command against every right, on one's own queue and on another's."""

from __future__ import annotations

from typing import get_args

import pytest

from logbroker.errors import ForbiddenError
from logbroker.node.catalogue.rights import ALL_RIGHTS, CLUSTER, Grant, Principal, Rights
from logbroker.server.auth import RULES, authorize, authorize_operator, may_see
from logbroker.server.handlers import HANDLERS
from logbroker.wire.requests import (
    AnyRequest,
    Hello,
    Ping,
    Produce,
    Request,
)
from tests.unit.server.auth_table import WANTED, about

OWN, OTHER = "own-orders", "other-orders"

ADMIN, CONSUME, PRODUCE = Rights.ADMIN, Rights.CONSUME, Rights.PRODUCE

KINDS = [kind for kind in get_args(AnyRequest) if kind not in (Hello, Ping)]


def holder(pattern: str, right: Rights) -> Principal:
    return Principal("tester", (Grant(pattern, int(right)),))


def passes(principal: Principal, request: AnyRequest) -> bool:
    try:
        authorize(principal, request)
    except ForbiddenError:
        return False
    return True


def test_every_kind_of_request_has_a_rule_a_handler_and_a_row_here() -> None:
    assert set(RULES) == set(HANDLERS) == set(WANTED) == set(about(OWN)) == set(KINDS)


@pytest.mark.parametrize("right", list(Rights))
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_on_ones_own_queues_opens_what_it_is_for_and_nothing_else(kind: type[Request], right: Rights) -> None:
    wanted = WANTED[kind]
    principal = holder("own-*", right)
    on_queue = wanted is None or (right in wanted[0] and not wanted[1])
    assert passes(principal, about(OWN)[kind]) == on_queue
    assert passes(principal, about(OTHER)[kind]) == (wanted is None)


@pytest.mark.parametrize("right", list(Rights))
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_on_everything_opens_the_cluster_too(kind: type[Request], right: Rights) -> None:
    wanted = WANTED[kind]
    assert passes(holder("*", right), about(OTHER)[kind]) == (wanted is None or right in wanted[0])


@pytest.mark.parametrize("kind", KINDS)
def test_without_grants_only_filtered_questions_may_be_asked(kind: type[Request]) -> None:
    assert passes(Principal("nobody", ()), about(OWN)[kind]) == (WANTED[kind] is None)


def test_a_kind_without_a_rule_is_denied_even_to_those_who_may_everything() -> None:
    with pytest.raises(ForbiddenError, match="has no rule"):
        authorize(holder("*", ALL_RIGHTS), Hello(1))


def test_a_refusal_does_not_tell_whether_the_queue_exists() -> None:
    with pytest.raises(ForbiddenError, match="tester has no right to produce on queue other-orders"):
        authorize(holder("own-*", PRODUCE), about(OTHER)[Produce])


def test_a_filtered_answer_shows_queues_on_which_there_is_any_right() -> None:
    principal = holder("own-*", Rights.PURGE)
    assert may_see(principal, OWN)
    assert not may_see(principal, OTHER)


def test_operators_administer_the_cluster_and_not_only_some_queues() -> None:
    authorize_operator(holder(CLUSTER, ADMIN))
    with pytest.raises(ForbiddenError):
        authorize_operator(holder("own-*", ALL_RIGHTS))
    with pytest.raises(ForbiddenError):
        authorize_operator(holder(CLUSTER, CONSUME))
