"""Histograms: what they keep, and what merging does."""

from __future__ import annotations

import pytest

from tools.bench.latency import MAX_US, Latencies


def test_percentiles_are_those_of_what_was_added() -> None:
    latencies = Latencies()
    for milliseconds in range(1, 101):
        latencies.add_ns(milliseconds * 1_000_000)
    assert latencies.percentile_ms(50) == pytest.approx(50, rel=0.002)
    assert latencies.percentile_ms(99) == pytest.approx(99, rel=0.002)
    assert latencies.max_ms() == pytest.approx(100, rel=0.002)


def test_a_list_counts_as_many_as_it_holds() -> None:
    latencies = Latencies()
    latencies.add_ns(1_000_000, 99)
    latencies.add_ns(9_000_000)
    assert latencies.count == 100
    assert latencies.percentile_ms(99) == pytest.approx(1, rel=0.002)


def test_merging_two_is_adding_to_one() -> None:
    one, other, both = Latencies(), Latencies(), Latencies()
    for nanoseconds in range(1_000, 9_000_000, 77_777):
        (one if nanoseconds % 2 else other).add_ns(nanoseconds)
        both.add_ns(nanoseconds)
    one.merge(other.encode())
    assert one.encode() == both.encode()


def test_what_is_out_of_range_is_kept_at_its_ends() -> None:
    latencies = Latencies()
    latencies.add_ns(0)
    latencies.add_ns(10 * MAX_US * 1000)
    assert latencies.count == 2
    assert latencies.max_ms() == pytest.approx(MAX_US / 1000, rel=0.002)
