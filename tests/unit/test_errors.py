from __future__ import annotations

import re

import pytest

from logbroker import errors
from logbroker.errors import InvariantError, LogBrokerError, NotLeaderError, invariant
from logbroker.ids import NodeId

TREE = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, LogBrokerError)]


def test_every_error_is_drawn_in_the_docstring_of_the_module() -> None:
    drawn = re.findall(r"\w+Error\b", (errors.__doc__ or "").split("Each leaf")[0])
    assert drawn == [error.__name__ for error in TREE]


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in TREE]
    assert len(set(codes)) == len(codes)


def test_the_message_is_the_text_and_the_hint_stands_beside_it() -> None:
    error = NotLeaderError("node 2 does not lead orders-3", leader=NodeId(1), hint="ask node 1")
    assert str(error) == error.message == "node 2 does not lead orders-3"
    assert (error.hint, error.leader, error.retriable) == ("ask node 1", 1, True)


def test_a_broken_invariant_stops_what_it_guards() -> None:
    invariant(True, "never seen")
    with pytest.raises(InvariantError, match="applied 5 beyond commit 4"):
        invariant(False, "applied 5 beyond commit 4")
