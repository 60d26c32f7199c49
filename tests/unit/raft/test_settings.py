from __future__ import annotations

from typing import Any

import pytest

from logbroker.errors import ConfigurationError
from logbroker.ids import ReplicaId
from logbroker.raft.settings import RaftConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": ReplicaId(0)},
        {"heartbeat_ticks": 0},
        {"election_ticks": 1},
        {"max_inflight_messages": 0},
        {"max_uncommitted_bytes": 0},
        {"max_inflight_bytes": 10, "max_message_bytes": 11},
    ],
)
def test_a_setting_out_of_its_range_is_refused(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"replica": ReplicaId(1), "election_ticks": 10, "heartbeat_ticks": 1}
    RaftConfig(**good)
    with pytest.raises(ConfigurationError):
        RaftConfig(**(good | wrong))
