"""What the dashboard and the alerts name is what a real node says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from prometheus_client.parser import text_string_to_metric_families

from logbroker_client import connect
from tests.e2e.kit import running, single
from tests.unit.config.watching import BUILT_IN, expressions, metrics_in
from tests.unit.server.test_admin import call

if TYPE_CHECKING:
    from pathlib import Path


async def test_every_metric_that_dashboard_and_alerts_name_is_there_and_has_a_value(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders")
        async with client.producer("orders") as producer:
            await producer.send(b"one")
        async with client.consumer("orders") as consumer:
            async for message in consumer:
                await message.ack()
                break
        with trio.fail_after(20):
            status, text = await call(bound.listeners.admin.port, "/metrics")
    assert status == 200
    there = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    # One node has no peers, and nothing was moved, but the families are there.
    families = ("# TYPE logbroker_peer_", "# TYPE logbroker_move")
    there |= {line.split()[2] for line in text.splitlines() if line.startswith(families)}
    for place, expression in expressions().items():
        missing = metrics_in(expression) - there - BUILT_IN
        assert not missing, (place, missing)
