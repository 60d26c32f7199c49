"""The bytes that every system is measured with."""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.shared import shared_path
from tools.bench.payload import Kind, number_of, pool, sent_ns_of, stamp, stamp_many, tails


@pytest.mark.parametrize("kind", ["json", "random"])
@pytest.mark.parametrize("size_bytes", [64, 100, 1024])
def test_every_message_is_json_of_the_exact_size(kind: Kind, size_bytes: int) -> None:
    messages = pool(size_bytes, kind, count=50)
    assert {len(message) for message in messages} == {size_bytes}
    assert all(json.loads(message)["id"] == "0" * 16 for message in messages)


def test_messages_are_distinct_and_the_same_every_time() -> None:
    messages = pool(100)
    assert len(set(messages)) == 4096
    assert messages[:10] == pool(100, count=10)


def test_a_stamped_message_tells_its_number_and_time_and_keeps_the_rest() -> None:
    [message] = pool(1024, count=1)
    stamped = stamp(tails([message])[0], 0xBEEF, 77)
    assert (number_of(stamped), sent_ns_of(stamped)) == (0xBEEF, 77)
    assert stamp(tails([stamped])[0], 0, 0) == message


def test_messages_that_are_stamped_together_are_those_that_are_stamped_one_by_one() -> None:
    ends = tails(pool(100, count=3))
    one_by_one = [stamp(ends[number % 3], number, 77) for number in range(5, 15)]
    assert stamp_many(ends, 5, 10, 77) == one_by_one


def test_a_message_without_room_for_its_head_is_refused() -> None:
    with pytest.raises(ValueError, match="63 bytes"):
        pool(63)


@pytest.mark.parametrize("kind", ["json", "random"])
@pytest.mark.parametrize("size_bytes", [100, 1024])
def test_the_bytes_are_those_that_the_peers_were_measured_with(kind: Kind, size_bytes: int) -> None:
    path = shared_path("bench/payload.py")
    spec = importlib.util.spec_from_file_location("outside_payload", path)
    assert spec is not None
    assert spec.loader is not None
    outside = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outside)
    assert pool(size_bytes, kind) == outside.pool(size_bytes, kind)
    [message] = pool(size_bytes, kind, count=1)
    assert stamp(tails([message])[0], 5, 6) == outside.patch(message, 5, 6)
