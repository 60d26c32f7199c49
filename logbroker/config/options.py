"""The small frozen values that the pure and the storage layers take, made from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.partition.decide import DecisionLimits
from logbroker.partition.log_time import ClockSettings
from logbroker.record.batch import BatchLimits
from logbroker.storage.node_store import StoreOptions
from logbroker.storage.partition_log import LogOptions
from logbroker.storage.wal import WalOptions
from logbroker.wire.requests import WireLimits

if TYPE_CHECKING:
    from logbroker.config.limits import Limits
    from logbroker.config.settings import Settings


def batch_limits(limits: Limits) -> BatchLimits:
    return BatchLimits(
        max_batch_bytes=limits.max_batch_bytes,
        max_record_bytes=limits.max_record_bytes,
        max_record_count=limits.max_record_count,
        max_uncompressed_bytes=limits.max_uncompressed_bytes,
        max_header_bytes=limits.max_header_bytes,
        max_header_count=limits.max_header_count,
    )


def decision_limits(limits: Limits) -> DecisionLimits:
    return DecisionLimits(
        max_receive_count=limits.max_receive_count,
        max_ranges_per_change=limits.max_ranges_per_change,
        max_runs_per_group=limits.max_runs_per_group,
    )


def wire_limits(limits: Limits) -> WireLimits:
    """What a connection is told when it says hello."""
    return WireLimits(
        max_message_bytes=limits.max_websocket_message_bytes,
        max_batch_bytes=limits.max_batch_bytes,
        max_record_bytes=limits.max_record_bytes,
        max_record_count=limits.max_record_count,
        max_outstanding=limits.max_inflight_requests,
        max_wait_ms=limits.max_wait_ms,
    )


def clock_settings(settings: Settings) -> ClockSettings:
    return ClockSettings(
        max_skew_ms=settings.log_time.max_skew_ms, max_clock_step_ms=settings.log_time.max_clock_step_ms
    )


def store_options(settings: Settings, *, disk_bytes: int) -> StoreOptions:
    """Give the options of a store on a disk of `disk_bytes`."""
    storage = settings.storage
    return StoreOptions(
        wal=WalOptions(file_bytes=storage.wal_file_bytes, max_files=storage.wal_max_files),
        log=LogOptions(
            segment_bytes=storage.segment_bytes,
            first_room_bytes=storage.preallocate_min_bytes,
            max_room_step_bytes=storage.preallocate_max_bytes,
        ),
        ballast_bytes=storage.ballast_bytes(disk_bytes),
        max_commit_bytes=storage.max_commit_bytes,
    )
