"""`logbroker serve` and `logbroker dev`: run a node."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.output import Output

if TYPE_CHECKING:
    from logbroker.config import LoadedSettings


@click.command()
@click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), help="TOML file; else LOGBROKER_CONFIG."
)
@click.option("--node-id", type=click.IntRange(1), help="As node.id.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="As node.data_dir.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting by its dotted key; repeatable."
)
def serve(config_file: Path | None, node_id: int | None, data_dir: Path | None, assignments: tuple[str, ...]) -> int:
    """Run a node until it is told to stop.

    Values come from flags, then LOGBROKER_SECTION__KEY, then the TOML file, then defaults; `logbroker config show
    --origin` says which.

    Examples:

    \b
      logbroker serve --config configs/single_node/logbroker.toml
      logbroker serve --config node2.toml --set raft.election_ms=2000
      LOGBROKER_NODE__DATA_DIR=/data logbroker serve
    """
    return _run(load(config_file, assignments, node_id=node_id, data_dir=data_dir))


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the data here; else it is gone at the end.")
@click.option(
    "--port", type=click.IntRange(1, 65_533), default=4100, show_default=True, help="The next two are taken too."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting by its dotted key; repeatable."
)
def dev(data_dir: Path | None, port: int, assignments: tuple[str, ...]) -> int:
    """Run a single node on this machine, for trying things out.

    Examples:

    \b
      logbroker dev
      logbroker dev --data-dir ./play --port 5100
    """
    import tempfile

    with ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logbroker-dev-")))
        loaded = load_for_dev(folder, port, assignments)
        kept = "kept" if data_dir else "gone at the end"
        Output().say(
            f"logbroker dev: {loaded.settings.client_url}  admin {loaded.settings.admin_url}  data {folder} ({kept})"
        )
        return _run(loaded)


def load(
    config_file: Path | None,
    assignments: tuple[str, ...],
    *,
    node_id: int | None = None,
    data_dir: Path | None = None,
) -> LoadedSettings:
    """Gather the settings of a node.

    Raises:
        ConfigurationError: see `load_settings`.
    """
    from logbroker.config import load_settings, parse_assignment

    flags: dict[str, object] = dict(map(parse_assignment, assignments))
    if node_id is not None:
        flags["node.id"] = node_id
    if data_dir is not None:
        flags["node.data_dir"] = data_dir
    return load_settings(flags=flags, config_file=config_file)


def load_for_dev(folder: Path, port: int, assignments: tuple[str, ...]) -> LoadedSettings:
    """Gather the settings of `dev`: no file is read, everything listens on loopback."""
    from logbroker.config import load_settings, parse_assignment

    flags: dict[str, object] = {
        "cluster.name": "dev",
        "node.data_dir": folder,
        "listeners.client.port": port,
        "listeners.admin.port": port + 1,
        "listeners.peer.port": port + 2,
        # One in a hundred of a developer's disk is a lot for trying things out.
        "storage.ballast_percent": 0.0,
        **dict(map(parse_assignment, assignments)),
    }
    return load_settings(flags=flags, use_file=False)


def _run(loaded: LoadedSettings) -> int:
    from logbroker.config import file_warnings
    from logbroker.server.main import run

    output = Output()
    for warning in (*loaded.settings.warnings(), *file_warnings(loaded.settings)):
        output.warn(warning)
    return int(run(loaded.settings) or 0)
