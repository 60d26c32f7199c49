from __future__ import annotations

import pytest

from logbroker.errors import InvalidArgumentError
from logbroker.partition.retention import check_retention_s, first_kept_ms


@pytest.mark.parametrize("retention_s", [60, 61, 1_295_999, 1_296_000])
def test_a_retention_within_its_bounds_is_taken(retention_s: int) -> None:
    assert check_retention_s(retention_s) == retention_s


@pytest.mark.parametrize(
    ("retention_s", "fault"),
    [
        (59, "orders.retention_s 59 is below its minimum of 60 s"),
        (-1, "orders.retention_s -1 is below its minimum of 60 s"),
        (1_296_001, "orders.retention_s 1296001 is above its maximum of 1296000 s"),
    ],
)
def test_a_retention_outside_of_its_bounds_names_the_bound(retention_s: int, fault: str) -> None:
    with pytest.raises(InvalidArgumentError, match=fault):
        check_retention_s(retention_s, field="orders.retention_s")


def test_a_message_is_kept_until_its_retention_has_passed_to_the_millisecond() -> None:
    assert first_kept_ms(60_000 + 1_000, retention_s=60) == 1_001
    appended_ms = 1_000
    assert appended_ms >= first_kept_ms(60_999, retention_s=60)
    assert appended_ms < first_kept_ms(61_000, retention_s=60)
