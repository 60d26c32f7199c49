from __future__ import annotations

import pytest

from logbroker.ids import Offset
from logbroker.node import requests as node_requests
from logbroker.server.targets import describe_target, partition_target
from logbroker.wire.requests import (
    EarliestTarget,
    LatestTarget,
    MessageTarget,
    OffsetTarget,
    RelativeTarget,
    Target,
    TimeTarget,
)


@pytest.mark.parametrize(
    ("target", "meant", "words"),
    [
        (TimeTarget(5), node_requests.TimeTarget(5), "time 5"),
        (OffsetTarget(7), node_requests.OffsetTarget(Offset(7)), "offset 7"),
        (RelativeTarget(ms=900), node_requests.TimeTarget(-900), "900 ms back"),
        (RelativeTarget(count=3), node_requests.CountTarget(3), "the last 3 messages"),
        (EarliestTarget(), node_requests.EarliestTarget(), "earliest"),
        (LatestTarget(), node_requests.LatestTarget(), "latest"),
        (MessageTarget([(0, 1), (2, 8)]), node_requests.OffsetTarget(Offset(8)), "offset 8"),
    ],
)
def test_a_target_in_one_partition(target: Target, meant: node_requests.Target, words: str) -> None:
    assert partition_target(target, 2) == meant
    assert describe_target(target, 2) == words


def test_a_partition_that_is_not_named_stays_as_it_is() -> None:
    assert partition_target(MessageTarget([(0, 1)]), 1) is None
    assert describe_target(MessageTarget([(0, 1)]), 1) == "not named"
