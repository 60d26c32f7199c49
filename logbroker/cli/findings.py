"""What `logbroker doctor` says: findings, each with a verdict and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, final

from logbroker.cli.exits import Exit
from logbroker.cli.output import Format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logbroker.cli.output import Output


@final
class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It comes right by itself, or is worth a look."""
    FAILED = "failed"
    """It does not come right without somebody."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which replica, and which of its entries, a finding is about; 0 is for none. `last_index` is inclusive."""

    group: int = 0
    replica: int = 0
    index: int = 0
    last_index: int = 0
    term: int = 0


NOWHERE = Place()


@final
@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    verdict: Verdict
    detail: str
    hint: str = ""
    place: Place = NOWHERE


def report(findings: Iterable[Finding], output: Output) -> Exit:
    """Write the findings; give the exit code that they make together."""
    found = list(findings)
    if output.format is Format.TABLE:
        for one in found:
            print(f"{one.verdict:7}  {one.check}: {one.detail}" + (f"\n         {one.hint}" if one.hint else ""))
    else:
        output.rows([_row(one) for one in found], ())
    verdicts = {one.verdict for one in found}
    if Verdict.FAILED in verdicts:
        return Exit.FAILED
    return Exit.DIFFERS if Verdict.WARNING in verdicts else Exit.OK


def _row(one: Finding) -> dict[str, object]:
    row: dict[str, object] = {
        "check": one.check,
        "verdict": str(one.verdict),
        "detail": one.detail,
        "hint": one.hint,
    }
    if one.place != NOWHERE:
        row |= asdict(one.place)
    return row
