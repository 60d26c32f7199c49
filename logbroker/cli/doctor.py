"""`logbroker doctor`: look over a machine, a data directory or a cluster; say what is wrong and what to do."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.admin import AdminNode, access_options
from logbroker.cli.findings import Finding, Verdict, report
from logbroker.cli.output import Output, output_options
from logbroker.cli.serve import load
from logbroker.errors import ConfigurationError, LogBrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.config import LoadedSettings, Settings

MIN_OPEN_FILES = 4_096
LOW_ROOM_PERCENT = 10


@click.command(epilog="Example: logbroker doctor /var/lib/logbroker")
@click.argument("data_dir", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), help="TOML file; else LOGBROKER_CONFIG."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting by its dotted key; repeatable."
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="Look over running nodes in place of this machine: the admin listener of each; repeatable.",
)
@click.option("--online", is_flag=True, help="Read DATA_DIR though a node runs on it: what moves may look damaged.")
@output_options
@access_options
def doctor(
    data_dir: Path | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    servers: tuple[str, ...],
    online: bool,
    output: Output,
    node: AdminNode,
) -> int:
    """Check a machine and its node, a stopped node's data, or a running cluster. Nothing is changed.

    Without arguments: the configuration, the data directory, and whether the node answers.

    With DATA_DIR, of a stopped node: every checksum of every file, and the files against each other. Each finding says
    what it means and what to do.

    With --server: what the nodes say of themselves, of each other, their disks and their clocks.

    Exit code 0 if all is well, 6 if what is wrong comes right by itself (warnings), 1 if somebody has to do something.

    Examples:

    \b
      logbroker doctor --config /etc/logbroker/logbroker.toml
      logbroker doctor /var/lib/logbroker -o json
      logbroker doctor --server http://node1:4101 --server http://node2:4101
    """
    if servers and data_dir is not None:
        raise click.UsageError("give DATA_DIR or --server, not both")
    if servers:
        from logbroker.cli.doctor_cluster import examine_cluster

        return report(examine_cluster([replace(node, url=url) for url in servers]), output)
    if data_dir is not None:
        from logbroker.cli.doctor_data import examine_data

        if online:
            output.warn(f"a node may be writing to {data_dir}: what moves while it is read may look damaged")
        return report(examine_data(data_dir, in_use=online), output)
    return report(examine(config_file, assignments), output)


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
