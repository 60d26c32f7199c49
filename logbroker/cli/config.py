"""`logbroker config`: look at the configuration of a node, without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.exits import Exit
from logbroker.cli.output import Output, output_options
from logbroker.cli.serve import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    # Click's callbacks take whatever options the command has.
    Command = TypeVar("Command", bound=Callable[..., Any])


def _source_options(command: Command) -> Command:
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting by its dotted key."),
        click.option("-c", "--config", "config_file", type=click.Path(path_type=Path), help="TOML file."),
    ):
        command = option(command)
    return command


@click.group()
def config() -> None:
    """Show and check the configuration of a node."""


@config.command(epilog="Example: logbroker config show --origin | grep -v default")
@click.option("--origin", is_flag=True, help="Also say where each value came from.")
@_source_options
@output_options
def show(origin: bool, config_file: Path | None, assignments: tuple[str, ...], output: Output) -> None:
    """Write every setting as the node would have it."""
    loaded = load(config_file, assignments)
    rows = [{"key": key, "value": _plain(value), "origin": source} for key, value, source in loaded.values()]
    if not origin:
        rows = [{"key": row["key"], "value": row["value"]} for row in rows]
    output.rows(rows, ("key", "value", "origin") if origin else ("key", "value"))


@config.command(epilog="Example: logbroker config check --config node1.toml && systemctl restart logbroker")
@_source_options
@output_options
def check(config_file: Path | None, assignments: tuple[str, ...], output: Output) -> int:
    """Check the configuration; exit code 1 if a node would not start with it, 6 if there are warnings."""
    from logbroker.config import file_warnings

    loaded = load(config_file, assignments)
    warnings = [*loaded.settings.warnings(), *file_warnings(loaded.settings)]
    output.rows([{"warning": warning} for warning in warnings], ("warning",))
    output.say(f"{loaded.file or 'no file'}: a node would start with this")
    return Exit.DIFFERS if warnings else Exit.OK


@config.command(epilog="Example: logbroker config schema --write configs/logbroker.schema.json")
@click.option(
    "--write", "target", type=click.Path(path_type=Path, dir_okay=False), help="Into this file, not to stdout."
)
def schema(target: Path | None) -> None:
    """Write the JSON Schema of the configuration file, which editors complete and check by."""
    from logbroker.config import schema_text

    if target is None:
        print(schema_text(), end="")
    else:
        target.write_text(schema_text(), encoding="utf-8")


@config.command(epilog="Example: logbroker config limits > docs/limits.md")
def limits() -> None:
    """Write the page of all limits as Markdown."""
    from logbroker.config import limits_page

    print(limits_page(), end="")


def _plain(value: object) -> object:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, (int, float, str, type(None))) else str(value)
