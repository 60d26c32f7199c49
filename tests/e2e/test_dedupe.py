"""Messages with ids of their own on a real node: appended once over restarts of producer and node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from logbroker_client import DedupConflictError, connect
from tests.e2e.kit import port_of, running, single

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker_client import MessageId

PAYMENTS = 200


async def test_what_is_sent_again_after_restarts_is_there_once(tmp_path: Path) -> None:
    firsts: dict[int, MessageId] = {}
    for start in range(3):
        async with running(single(tmp_path)) as (_, settings), connect(f"ws://127.0.0.1:{port_of(settings)}") as client:
            if not start:
                await client.create_queue("payments", partitions=2)
            async with client.producer("payments") as producer:
                # Each time all that was sent before, and some more.
                for number in range((start + 1) * PAYMENTS // 3):
                    sent = await producer.send(b"pay %d" % number, dedup_id=f"payment-{number}")
                    assert sent.duplicate is (number in firsts)
                    assert sent == firsts.setdefault(number, sent)
                with pytest.raises(DedupConflictError):
                    await producer.send(b"pay more", dedup_id="payment-0")
            found = (await client.describe_queue("payments")).partitions
            assert sum(partition.log_end for partition in found) >= len(firsts)
            (group,) = await client.describe_groups("payments")
            assert group.available == len(firsts)
