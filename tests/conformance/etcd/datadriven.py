"""Reader of the datadriven format: a directive, maybe input, a line of dashes, the expected output.

    # comment
    command key key=value key=(a, b)
    input lines, if any
    ----
    expected lines, up to the next empty line

Expected output that holds empty lines stands between two doubled dash lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from pathlib import Path

_DASHES = "----"
_ARGUMENT = re.compile(r"\s*([^\s=()]+)(?:=(\([^)]*\)|\S*))?")


class FormatError(ValueError):
    """The text is no script; the message gives file and line."""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One directive with what it should print. `arguments` maps a key to its values, none for a bare word."""

    file: str
    line: int
    command: str
    arguments: dict[str, list[str]]
    input: str
    expected: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def flag(self, key: str) -> bool:
        return self.arguments.get(key, ["false"])[0] == "true"


def parse_file(path: Path) -> list[Case]:
    return parse(path.read_text(encoding="utf-8"), file=path.name)


def parse(text: str, *, file: str) -> list[Case]:
    """Split a script into its cases.

    Raises:
        FormatError: a directive without its line of dashes, or arguments that cannot be read.
    """
    lines = text.splitlines()
    cases: list[Case] = []
    position = 0
    while position < len(lines):
        if not lines[position].strip() or lines[position].startswith("#"):
            position += 1
            continue
        case, position = _parse_case(lines, position, file)
        cases.append(case)
    return cases


def _parse_case(lines: list[str], start: int, file: str) -> tuple[Case, int]:
    position = start
    directive = lines[position]
    while directive.endswith("\\") and position + 1 < len(lines):
        position += 1
        directive = directive[:-1] + " " + lines[position].strip()
    position += 1
    first_input = position
    while position < len(lines) and lines[position] != _DASHES:
        position += 1
    if position == len(lines):
        raise FormatError(f"{file}:{start + 1}: no line of dashes after {directive!r}")
    given = "\n".join(lines[first_input:position])
    expected, position = _parse_expected(lines, position + 1)
    command, _, rest = directive.partition(" ")
    return Case(file, start + 1, command, _parse_arguments(rest, f"{file}:{start + 1}"), given, expected), position


def _parse_expected(lines: list[str], start: int) -> tuple[str, int]:
    position = start
    if position < len(lines) and lines[position] == _DASHES:
        end = next(
            (place for place in range(start + 1, len(lines) - 1) if lines[place : place + 2] == [_DASHES] * 2),
            len(lines),
        )
        return "\n".join(lines[start + 1 : end]), end + 2
    while position < len(lines) and lines[position].strip():
        position += 1
    return "\n".join(lines[start:position]), position


def _parse_arguments(text: str, place: str) -> dict[str, list[str]]:
    arguments: dict[str, list[str]] = {}
    position = 0
    while text[position:].strip():
        found = _ARGUMENT.match(text, position)
        if found is None:
            raise FormatError(f"{place}: cannot read the arguments {text[position:]!r}")
        key, value = found.groups()
        values = [] if value is None else [part.strip() for part in value.strip("()").split(",")]
        arguments.setdefault(key, []).extend(part for part in values if part)
        position = found.end()
    return arguments
