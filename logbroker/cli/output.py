"""What commands say: data on stdout, in the form that was asked for; everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any, TypeVar, final

import rich_click as click

Row = Mapping[str, object]
# Click's callbacks take whatever options the command has.
Command = TypeVar("Command", bound=Callable[..., Any])


@final
class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"


@final
@dataclass(frozen=True, slots=True)
class Output:
    format: Format = Format.TABLE
    has_color: bool = False
    is_quiet: bool = False

    def rows(self, rows: Iterable[Row], columns: Sequence[str]) -> None:
        """Print rows: `columns` of them as a table, all of them in the other forms."""
        match self.format:
            case Format.JSON:
                print(json.dumps(list(rows), indent=2, ensure_ascii=False))
            case Format.NDJSON:
                for row in rows:
                    print(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
            case Format.TABLE:
                self._table(list(rows), columns)

    def one(self, row: Row) -> None:
        """Print one object; as a table, a line for each field that is not a list."""
        match self.format:
            case Format.JSON:
                print(json.dumps(row, indent=2, ensure_ascii=False))
            case Format.NDJSON:
                print(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
            case Format.TABLE:
                width = max(map(len, row), default=0)
                for name, value in row.items():
                    if not isinstance(value, list):
                        print(f"{self._bold(name.ljust(width))}  {_cell(value)}")

    @contextmanager
    def stream(self) -> Iterator[Callable[[Row], None]]:
        """Give a function that prints one row at a time, flushed; for JSON they become one array. Not for tables."""
        as_array = self.format is Format.JSON
        count = 0

        def put(row: Row) -> None:
            nonlocal count
            text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
            print(f"{',' if count else '['}\n{text}" if as_array else text, end="" if as_array else "\n", flush=True)
            count += 1

        try:
            yield put
        finally:
            if as_array:
                print("\n]" if count else "[]", flush=True)

    def say(self, text: str) -> None:
        """Tell the person, unless they asked for silence."""
        if not self.is_quiet:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)

    def _table(self, rows: list[Row], columns: Sequence[str]) -> None:
        cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        print(self._bold(_line(columns, widths, right=set())))
        right = {
            place for place in range(len(columns)) if rows and all(_is_number(row, columns[place]) for row in rows)
        }
        for line in cells:
            print(_line(line, widths, right=right))

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.has_color else text


def output_options(command: Command) -> Command:
    """Give a command `-o`, `--no-color` and `-q`, and hand them to it as one `output`."""

    @click.option(
        "-o",
        "--output",
        "output_format",
        type=click.Choice([form.value for form in Format]),
        default=Format.TABLE.value,
        help="Form of the data on stdout; errors on stderr are JSON with json and ndjson.",
    )
    @click.option("--no-color", is_flag=True, help="No colours; NO_COLOR=1 does the same.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but warnings and errors.")
    @wraps(command)
    def wrapped(*args: Any, output_format: str, no_color: bool, quiet: bool, **options: Any) -> object:  # noqa: ANN401  click's
        color = not no_color and not os.environ.get("NO_COLOR") and sys.stdout.isatty()
        return command(*args, output=Output(Format(output_format), color, quiet), **options)

    return wrapped  # type: ignore[return-value]  # the same command, with other options


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask before something that cannot be taken back; never where nobody is there to answer.

    Raises:
        click.UsageError: stdin is not a terminal and `--yes` was not given.
        click.Abort: the answer was no.
    """
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Give --yes to say so without being asked.")
    click.confirm(question, abort=True, err=True)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "-"
    return str(value)


def _is_number(row: Row, column: str) -> bool:
    value = row.get(column)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _line(cells: Sequence[str], widths: Sequence[int], *, right: set[int]) -> str:
    aligned = [
        cell.rjust(width) if place in right else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()
