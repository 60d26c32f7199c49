from __future__ import annotations

import pytest

from logbroker.errors import InvalidArgumentError
from logbroker_client.options import ClientOptions, ConsumerOptions, ProducerOptions


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_s": 0},
        {"connect_timeout_s": -1},
        {"close_timeout_s": -0.1},
        {"ping_interval_s": 0},
        {"max_message_bytes": 1},
        {"timeout_s": float("nan")},
    ],
)
def test_a_client_has_bounds(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError, match="outside"):
        ClientOptions(**settings)  # type: ignore[arg-type]  # as written


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_s": 0},
        {"batch_bytes": 0},
        {"linger_s": -1},
        {"max_buffered_bytes": 0},
        {"max_in_flight_count": 0},
        # The server tells repeats among the last five batches.
        {"max_in_flight_count": 6},
    ],
)
def test_a_producer_has_bounds(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError, match="outside"):
        ProducerOptions(**settings)  # type: ignore[arg-type]  # as written


@pytest.mark.parametrize(
    "settings",
    [
        {"group": ""},
        {"hide_s": 0.5},
        {"hide_s": 43_201},
        {"wait_s": 0},
        {"wait_s": 31},
        {"max_messages": 0},
        {"max_messages": 10_001},
        {"max_bytes": 0},
        {"prefetch_count": 0},
        {"timeout_s": 0},
        {"on_close": "nack"},
    ],
)
def test_a_consumer_has_bounds(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError):
        ConsumerOptions(**settings)  # type: ignore[arg-type]  # as written
