"""What a peek brought: a server's word is checked before it is taken for memory to fill."""

from __future__ import annotations

import pytest

from logbroker.errors import CorruptBatchError, RemoteProtocolError
from logbroker.record.batch import Record, encode_batch
from logbroker.wire.requests import BatchPart, Peeked, PeekedRange
from logbroker_client.peeking import opened

BATCH = encode_batch([Record(b"a", b"k"), Record(b"b")])


def reply(*ranges: tuple[int, int, int], states: tuple[tuple[int, int, str], ...], size_bytes: int) -> Peeked:
    return Peeked(
        1,
        parts=[BatchPart(size_bytes=size_bytes, base_offset=0, append_ms=9, ranges=list(ranges))],
        ranges=[PeekedRange(start=start, end=end, state=state, visible_at_ms=5) for start, end, state in states],
        next_offset=2,
        log_end=2,
    )


def test_each_message_has_its_state_and_content() -> None:
    states = ((0, 1, "leased"), (1, 2, "delayed"))
    found = reply((0, 1, 1), (1, 2, 3), states=states, size_bytes=len(BATCH))
    first, second = opened("orders", 4, found, BATCH, max_count=2)
    assert (str(first.id), first.state, first.deliveries, first.value, first.key) == (
        "orders/4/0",
        "leased",
        1,
        b"a",
        b"k",
    )
    assert (second.offset, second.state, second.deliveries, second.append_ms) == (1, "delayed", 3, 9)


def test_a_message_that_is_lost_has_its_state_and_no_content() -> None:
    (message,) = opened("orders", 0, reply((0, 1, 0), states=((0, 1, "dead"),), size_bytes=0), b"", max_count=1)
    assert (message.state, message.corrupt is not None) == ("dead", True)
    with pytest.raises(CorruptBatchError, match="orders/0/0 cannot be read"):
        _ = message.value


@pytest.mark.parametrize("shown", [(0, 1 << 62, 0), (2, 1, 0)])
def test_more_than_was_asked_for_is_refused_before_it_is_opened(shown: tuple[int, int, int]) -> None:
    with pytest.raises(RemoteProtocolError, match="more than 2 messages"):
        list(opened("orders", 0, reply(shown, states=((0, 2, "dead"),), size_bytes=0), b"", max_count=2))


def test_a_message_without_a_state_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="does not say the state of message 1"):
        list(opened("orders", 0, reply((0, 2, 0), states=((0, 1, "dead"),), size_bytes=len(BATCH)), BATCH, max_count=2))
