"""What the scrubber counts, where operators look for it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from logbroker.config import Settings
from logbroker.node.broker import _engine_options
from logbroker.server.metrics import _scrub as metrics_of
from logbroker.server.status_page import _scrub as page_of
from logbroker.storage.scrub import ScrubOptions, ScrubStatistics

FOUND = ScrubStatistics(
    rounds=2,
    slices=9,
    read_bytes=1_000,
    damaged_entries=3,
    damaged_checkpoints=1,
    damaged_wal=0,
    mended_copies=4,
    unmended=("a checkpoint is damaged",),
)


def service(statistics: Any) -> Any:  # noqa: ANN401  a stand-in for more than is looked at
    return SimpleNamespace(backend=SimpleNamespace(statistics=statistics))


def test_a_node_scrubs_as_it_is_configured() -> None:
    settings = Settings()
    assert _engine_options(settings).scrub == ScrubOptions(8 << 20, 3_600_000)
    storage = settings.storage.model_copy(update={"scrub_bytes_per_s": 0, "scrub_pause_ms": 5_000})
    off = _engine_options(settings.model_copy(update={"storage": storage}))
    assert off.scrub == replace(ScrubOptions(), bytes_per_s=0, pause_ms=5_000)


def test_the_status_page_tells_what_was_found() -> None:
    page = page_of(service(lambda: SimpleNamespace(engine=SimpleNamespace(scrub=FOUND))))
    assert page is not None
    assert (page["rounds"], page["damaged_entries"], page["unmended"]) == (2, 3, ["a checkpoint is damaged"])


def test_the_metrics_count_rot_by_what_it_struck() -> None:
    samples = {
        (sample.name, sample.labels.get("what", "")): sample.value
        for metric in metrics_of(FOUND)
        for sample in metric.samples
    }
    assert samples["logbroker_scrub_damage_total", "entry"] == 3
    assert samples["logbroker_scrub_damage_total", "checkpoint"] == 1
    assert samples["logbroker_scrub_mended_copies_total", ""] == 4
    assert samples["logbroker_scrub_unmended", ""] == 1
