"""`logbroker doctor`: look over one node from the outside and say what is wrong and what to do."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, final

import rich_click as click

from logbroker.cli.admin import AdminNode
from logbroker.cli.exits import Exit
from logbroker.cli.output import Format, Output, output_options
from logbroker.cli.serve import load
from logbroker.errors import ConfigurationError, LogBrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.config import LoadedSettings, Settings

MIN_OPEN_FILES = 4_096
LOW_ROOM_PERCENT = 10


@final
class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    verdict: Verdict
    detail: str
    hint: str = ""


@click.command(epilog="Example: logbroker doctor --config /etc/logbroker/logbroker.toml")
@click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), help="TOML file; else LOGBROKER_CONFIG."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting by its dotted key; repeatable."
)
@output_options
def doctor(config_file: Path | None, assignments: tuple[str, ...], output: Output) -> int:
    """Check the configuration, the data directory, and whether the node answers.

    Exit code 1 if something is broken, 6 if there are only warnings.
    """
    findings = list(examine(config_file, assignments))
    rows = [
        {"check": found.check, "verdict": str(found.verdict), "detail": found.detail, "hint": found.hint}
        for found in findings
    ]
    if output.format is Format.TABLE:
        for found in findings:
            print(
                f"{found.verdict:7}  {found.check}: {found.detail}" + (f"\n         {found.hint}" if found.hint else "")
            )
    else:
        output.rows(rows, ())
    verdicts = {found.verdict for found in findings}
    if Verdict.FAILED in verdicts:
        return Exit.FAILED
    return Exit.DIFFERS if Verdict.WARNING in verdicts else Exit.OK


def examine(config_file: Path | None, assignments: tuple[str, ...]) -> Iterator[Finding]:
    """Yield what was found, in the order of what depends on what."""
    try:
        loaded = load(config_file, assignments)
    except ConfigurationError as error:
        yield Finding("configuration", Verdict.FAILED, error.message, error.hint)
        return
    yield from _configuration(loaded)
    yield from _data_directory(loaded.settings)
    yield from _machine()
    yield from _node(loaded.settings)


def _configuration(loaded: LoadedSettings) -> Iterator[Finding]:
    from logbroker.config import file_warnings

    warnings = [*loaded.settings.warnings(), *file_warnings(loaded.settings)]
    for warning in warnings:
        yield Finding("configuration", Verdict.WARNING, warning)
    if not warnings:
        yield Finding("configuration", Verdict.OK, str(loaded.file or "no file"))


def _data_directory(settings: Settings) -> Iterator[Finding]:
    folder = settings.node.data_dir
    check = "data directory"
    if not folder.exists():
        yield Finding(check, Verdict.WARNING, f"{folder} does not exist", "the first start makes it")
        return
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(check, Verdict.FAILED, f"{folder} is no directory that this user may write to", "chown it")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        yield Finding(check, Verdict.WARNING, f"{folder} has mode {mode:04o}", "chmod 0700: messages lie in it")
    import shutil

    usage = shutil.disk_usage(folder)
    ballast = settings.storage.ballast_bytes(usage.total)
    room = f"{usage.free >> 20:,} MiB of {usage.total >> 20:,} MiB are free"
    if usage.free < ballast:
        yield Finding("room", Verdict.FAILED, room, f"the node keeps {ballast >> 20:,} MiB back and refuses produce")
    elif usage.free < usage.total * LOW_ROOM_PERCENT // 100:
        yield Finding("room", Verdict.WARNING, room, "add room, or shorten the retention of queues")
    else:
        yield Finding("room", Verdict.OK, room)


def _machine() -> Iterator[Finding]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        hint = f"ulimit -n {MIN_OPEN_FILES} (at most {hard})" if hard >= MIN_OPEN_FILES else "raise the hard limit"
        yield Finding("open files", Verdict.WARNING, f"{soft} allowed, {MIN_OPEN_FILES} are better", hint)
    else:
        yield Finding("open files", Verdict.OK, "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} allowed")


def _node(settings: Settings) -> Iterator[Finding]:
    node = AdminNode(settings.admin_url, timeout_ms=2_000, ca_file=settings.listeners.admin.tls_ca)
    try:
        live, _ = node.get("/livez")
        ready, text = node.get("/readyz?verbose")
    except LogBrokerError as error:
        yield Finding("node", Verdict.WARNING, error.message, "is it started?")
        return
    if live != 200:
        yield Finding("node", Verdict.FAILED, f"/livez answers {live}", "its event loop is stuck: look at its log")
    elif ready != 200:
        yield Finding("node", Verdict.WARNING, f"not ready ({ready}): {' '.join(text.split())}")
    else:
        yield Finding("node", Verdict.OK, f"ready at {settings.admin_url}")
