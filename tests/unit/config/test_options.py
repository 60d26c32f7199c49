"""Settings reach the layers below: the defaults agree on both sides, and each value arrives."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from logbroker.config import options
from logbroker.config.limits import Limits
from logbroker.config.settings import Settings
from logbroker.partition.decide import DecisionLimits
from logbroker.partition.log_time import ClockSettings
from logbroker.record.batch import BatchLimits
from logbroker.storage.node_store import StoreOptions
from logbroker.wire.requests import WireLimits

if TYPE_CHECKING:
    from pydantic import BaseModel


def moved(model: type[BaseModel], *, leave: tuple[str, ...] = ()) -> dict[str, int]:
    """A value one below the default, or above, for every number of a section."""
    return {
        name: field.default - 1 if field.default > 1 else field.default + 1
        for name, field in model.model_fields.items()
        if isinstance(field.default, int) and name not in leave
    }


def test_the_defaults_are_those_that_the_layers_have_themselves() -> None:
    settings = Settings()
    assert options.batch_limits(settings.limits) == BatchLimits()
    assert options.wire_limits(settings.limits) == WireLimits()
    assert options.clock_settings(settings) == ClockSettings()
    assert options.store_options(settings, disk_bytes=0) == StoreOptions()
    assert options.decision_limits(settings.limits) == DecisionLimits()


def test_each_limit_of_a_layer_follows_its_setting() -> None:
    limits = Limits(**moved(Limits, leave=("max_wait_ms",)))
    batch = options.batch_limits(limits)
    assert {f.name: getattr(batch, f.name) for f in fields(batch)} == {
        f.name: getattr(limits, f.name) for f in fields(batch)
    }
    decisions = options.decision_limits(limits)
    assert {f.name: getattr(decisions, f.name) for f in fields(decisions)} == {
        f.name: getattr(limits, f.name) for f in fields(decisions)
    }
    wire = options.wire_limits(limits)
    assert wire.max_outstanding == limits.max_inflight_requests
    assert wire.max_message_bytes == limits.max_websocket_message_bytes


def test_the_store_gets_its_ballast_from_the_size_of_the_disk() -> None:
    assert options.store_options(Settings(), disk_bytes=100 << 30).ballast_bytes == 1 << 30
