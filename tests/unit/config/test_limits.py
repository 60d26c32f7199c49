"""The table of limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from logbroker.config.limits import FIXED_LIMITS, Limits, bounds_of, limits_page


@pytest.mark.parametrize("name", list(Limits.model_fields))
def test_every_limit_has_a_default_within_two_bounds_and_a_sentence(name: str) -> None:
    field = Limits.model_fields[name]
    smallest, largest = bounds_of(field)
    assert smallest <= field.default <= largest
    assert field.description is not None
    assert field.description.endswith(".")


@pytest.mark.parametrize("name", list(Limits.model_fields))
def test_no_limit_can_be_set_outside_its_bounds(name: str) -> None:
    smallest, largest = bounds_of(Limits.model_fields[name])
    for value in (smallest - 1, largest + 1):
        with pytest.raises(ValidationError, match=name):
            Limits.model_validate({name: value})


def test_the_table_has_a_row_for_each_limit_and_shows_default_and_bounds() -> None:
    rows = limits_page().splitlines()
    assert "| `limits.max_wait_ms` | 30,000 | 0 | 30,000 | Longest wait of a receive for a message. |" in rows
    assert sum(row.startswith("| `limits.") for row in rows) == len(Limits.model_fields)
    assert sum(row.startswith(f"| {what} |") for what, _, _ in FIXED_LIMITS for row in rows) == len(FIXED_LIMITS)


def test_a_websocket_message_holds_twice_what_is_largest_in_it() -> None:
    assert Limits().max_websocket_message_bytes == 2 << 20
    larger = Limits.model_validate({"max_batch_bytes": 4 << 20})
    assert larger.max_websocket_message_bytes == 8 << 20


def test_the_published_page_is_made_from_the_table() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "limits.md"
    assert page.read_text() == limits_page(), "run `logbroker config limits > docs/limits.md`"
