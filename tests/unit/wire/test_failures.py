from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker import errors
from logbroker.ids import NodeId
from logbroker.raft.refusal import ProposalRefused, RefusalReason
from logbroker.wire.failures import CODES, error_from_reply, error_reply
from logbroker.wire.requests import Error

if TYPE_CHECKING:
    from collections.abc import Iterator


def tree(root: type[errors.LogBrokerError]) -> Iterator[type[errors.LogBrokerError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


@pytest.mark.parametrize("error_class", list(tree(errors.LogBrokerError)))
def test_every_error_of_the_tree_comes_back_as_itself(error_class: type[errors.LogBrokerError]) -> None:
    reply = error_reply(error_class("what happened", hint="what to do"), rid=7)
    assert (reply.rid, reply.code, reply.retriable) == (7, error_class.code, error_class.retriable)
    error = error_from_reply(reply)
    assert type(error) is error_class
    assert (error.message, error.hint) == ("what happened", "what to do")


def test_an_error_of_another_module_is_told_as_what_it_is_a_kind_of() -> None:
    reply = error_reply(ProposalRefused(RefusalReason.TOO_MANY_READS, "too many reads wait"), rid=7)
    assert (reply.code, reply.message, reply.retriable) == ("unavailable", "too many reads wait", True)
    assert reply.code in CODES


def test_a_leader_travels_with_its_node_and_address() -> None:
    reply = error_reply(errors.NotLeaderError("not me", leader=NodeId(3)), rid=1, leader_url="ws://c:4100")
    assert (reply.leader_node, reply.leader_url) == (3, "ws://c:4100")
    error = error_from_reply(reply)
    assert isinstance(error, errors.NotLeaderError)
    assert error.leader == 3


def test_an_unknown_leader_is_none() -> None:
    error = error_from_reply(error_reply(errors.NotLeaderError("nobody leads")))
    assert isinstance(error, errors.NotLeaderError)
    assert error.leader is None


@pytest.mark.parametrize(("retriable", "error_class"), [(True, errors.UnavailableError), (False, errors.RequestError)])
def test_a_code_of_a_newer_server_says_at_least_whether_to_retry(
    *, retriable: bool, error_class: type[errors.LogBrokerError]
) -> None:
    error = error_from_reply(Error(1, code="no_such_code_yet", message="text", retriable=retriable))
    assert type(error) is error_class
    assert error.message == "no_such_code_yet: text"


def test_a_long_text_is_cut() -> None:
    assert len(error_reply(errors.RequestError("x" * 100_000)).message) == 4096
