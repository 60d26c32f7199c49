"""Latencies, kept as an HdrHistogram: three digits from a microsecond to two minutes, merged without loss."""

from __future__ import annotations

from typing import final

from hdrh.histogram import HdrHistogram

MAX_US = 120_000_000
_DIGITS = 3


@final
class Latencies:
    """A histogram in microseconds."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, MAX_US, _DIGITS)

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def add_ns(self, duration_ns: int, count: int = 1) -> None:
        """Note `count` events of one duration; what is longer than two minutes counts as two minutes."""
        self._histogram.record_value(min(max(duration_ns // 1000, 1), MAX_US), count)

    def add_corrected_ns(self, duration_ns: int, interval_ns: int) -> None:
        """Note a duration, and those that would have begun, one an interval, while it kept the sender waiting."""
        microseconds = min(max(duration_ns // 1000, 1), MAX_US)
        self._histogram.record_corrected_value(microseconds, max(interval_ns // 1000, 1))

    def merge(self, encoded: str) -> None:
        self._histogram.decode_and_add(encoded.encode())

    def encode(self) -> str:
        return str(self._histogram.encode().decode())

    def percentile_ms(self, percent: float) -> float:
        return float(self._histogram.get_value_at_percentile(percent)) / 1000

    def max_ms(self) -> float:
        return float(self._histogram.get_max_value()) / 1000

    def curve_ms(self, percents: tuple[float, ...]) -> list[tuple[float, float]]:
        """Give (percent, ms) pairs, for a plot."""
        return [(percent, self.percentile_ms(percent)) for percent in percents]
