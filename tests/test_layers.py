"""Holds the source to its layers by parsing imports: an import points to a lower layer only.

The checker takes a folder, so that planted violations can show that it sees them.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]

LAYERS = {
    "ids": 0,
    "errors": 0,
    "entry": 0,
    "record": 1,
    "raft": 1,
    "partition": 1,
    "wire": 1,
    "storage": 2,
    "config": 3,
    "node": 3,
    "server": 4,
    "gateways": 5,
    # A broker in memory, for the one module of the client that may use it.
    "memory": 5,
    "cli": 6,
    "__main__": 6,
    # Sees layers 0-3, and none of the layers may see it.
    "testing": 4,
}

# Pairs (who, whom) of one layer that may be crossed; layer 0 may be crossed freely.
SIDEWAYS = {("partition", "record"), ("wire", "record"), ("node", "config"), ("__main__", "cli")}

# What a layer may take from outside the standard library. Above layer 2 anything goes.
THIRD_PARTY = {
    "ids": set[str](),
    "errors": set[str](),
    "entry": set[str](),
    "record": {"zstandard", "crc32c"},
    "raft": set[str](),
    "partition": {"msgspec"},
    # websockets is an extra: its C function for masks.
    "wire": {"msgspec", "websockets"},
    "storage": {"lmdb", "msgspec"},
}

# Doors of the standard library to the clock, to chance and to the outside; closed in layers 0 and 1.
IMPURE = {
    "asyncio", "concurrent", "glob", "http", "importlib", "io", "logging", "mmap", "multiprocessing", "os", "pathlib",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess",
    "tempfile", "time", "urllib", "uuid",
}  # fmt: skip

# The command line talks to a cluster as any client does; it may use all.
CLIENT_USERS = {"cli"}

CLIENT_MAY_USE = {"ids", "errors", "record", "wire"}

# The one exception: (module of the client, what it may use besides).
CLIENT_EXCEPTION = ("testing.py", "memory")


@dataclass(frozen=True, slots=True)
class Import:
    path: Path
    line: int
    module: str
    """Absolute dotted name of a module or of a name in a module."""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def imports_of(path: Path, package: tuple[str, ...]) -> Iterator[Import]:
    """Yield every import of the file, in functions and under TYPE_CHECKING too; `package` is the file's own."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            anchor = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*anchor, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(path, node.lineno, f"{base}.{alias.name}")


def sources(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield each module of the package in `folder` with the dotted parts of the package it stands in."""
    for path in sorted(folder.rglob("*.py")):
        yield path, (folder.name, *path.relative_to(folder).parent.parts)


def component_of(path: Path, folder: Path) -> str:
    """Name the part of logbroker that a file belongs to: `raft` for raft/core.py, `ids` for ids.py."""
    return path.relative_to(folder).parts[0].removesuffix(".py")


def crosses(source: str, target: str) -> bool:
    """Say whether `source` may not import `target`."""
    if source == target or (source, target) in SIDEWAYS:
        return False
    if target == "testing":
        return True
    below = LAYERS[target] < LAYERS[source]
    return not (below or LAYERS[source] == LAYERS[target] == 0)


def import_fault(source: str, found: Import) -> str | None:
    """Say what is wrong with an import in the component `source` of logbroker."""
    top, _, rest = found.module.partition(".")
    if top == "logbroker":
        target = rest.partition(".")[0]
        if target not in LAYERS:
            return f"{found.module}: name the module, not the package"
        return f"{source} may not use {target}" if crosses(source, target) else None
    if top == "logbroker_client" and source in CLIENT_USERS:
        return None
    if top in {"logbroker_client", "clients", "tests", "tools"}:
        return f"logbroker may not use {top}"
    if top in sys.stdlib_module_names:
        return f"{source} must stay pure, without {top}" if LAYERS[source] <= 1 and top in IMPURE else None
    if source in THIRD_PARTY and top not in THIRD_PARTY[source]:
        return f"{source} may not use {top}"
    return None


def calls_of_open(path: Path) -> Iterator[int]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "__import__"}:
            yield node.lineno


def faults_in_logbroker(folder: Path) -> Iterator[str]:
    for path, package in sources(folder):
        source = component_of(path, folder)
        if source == "__init__":
            # Importing any module runs this one first, so it must be as light as the lightest.
            source = "errors"
        place = path.relative_to(folder.parent)
        if source not in LAYERS:
            yield f"{place}: {source} has no layer; add it to the table"
            continue
        for found in imports_of(path, package):
            fault = import_fault(source, found)
            if fault is not None:
                yield f"{place}:{found.line}: {fault}"
        if LAYERS[source] <= 1:
            for line in calls_of_open(path):
                yield f"{place}:{line}: {source} must stay pure, without open() and __import__()"


def faults_in_client(folder: Path) -> Iterator[str]:
    for path, package in sources(folder):
        for found in imports_of(path, package):
            parts = found.module.split(".")
            if parts[0] == "logbroker" and (str(path.relative_to(folder)), *parts[1:2]) == CLIENT_EXCEPTION:
                continue
            if parts[0] == "logbroker" and (len(parts) < 2 or parts[1] not in CLIENT_MAY_USE):
                yield f"{path.relative_to(folder.parent)}:{found.line}: a client may not use {found.module}"


def faults(root: Path) -> list[str]:
    return [
        *faults_in_logbroker(root / "logbroker"),
        *faults_in_client(root / "clients" / "python" / "logbroker_client"),
    ]


def test_every_import_points_to_a_lower_layer() -> None:
    assert faults(ROOT) == []


def test_the_checker_reads_the_real_source() -> None:
    read = [path.name for path, _ in sources(ROOT / "logbroker")]
    assert {"ids.py", "entry.py", "errors.py"} <= set(read)


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        ("logbroker/ids.py", "import trio", "ids may not use trio"),
        ("logbroker/entry.py", "from logbroker.record import batch", "entry may not use record"),
        ("logbroker/__init__.py", "from logbroker.node import broker", "errors may not use node"),
        ("logbroker/raft/core.py", "from logbroker.record.batch import Record", "raft may not use record"),
        ("logbroker/raft/core.py", "from logbroker import record", "raft may not use record"),
        ("logbroker/raft/core.py", "from ..record import batch", "raft may not use record"),
        ("logbroker/raft/core.py", "from .. import record", "raft may not use record"),
        ("logbroker/raft/core.py", "import msgspec", "raft may not use msgspec"),
        ("logbroker/raft/core.py", "def f() -> None:\n    import random", "raft must stay pure, without random"),
        ("logbroker/raft/core.py", "from os import path", "raft must stay pure, without os"),
        ("logbroker/raft/core.py", "import time as t", "raft must stay pure, without time"),
        ("logbroker/raft/core.py", "import socket", "raft must stay pure, without socket"),
        ("logbroker/raft/core.py", "open('x')", "raft must stay pure, without open() and __import__()"),
        ("logbroker/raft/core.py", "import logbroker", "logbroker: name the module, not the package"),
        ("logbroker/record/batch.py", "import lmdb", "record may not use lmdb"),
        ("logbroker/record/batch.py", "from logbroker.wire import frames", "record may not use wire"),
        ("logbroker/partition/machine.py", "import pydantic", "partition may not use pydantic"),
        ("logbroker/partition/machine.py", "from logbroker.raft import log", "partition may not use raft"),
        ("logbroker/storage/wal.py", "import trio", "storage may not use trio"),
        ("logbroker/storage/wal.py", "from logbroker.node import broker", "storage may not use node"),
        ("logbroker/config.py", "from logbroker.node import broker", "config may not use node"),
        ("logbroker/server/listener.py", "from logbroker.cli import main", "server may not use cli"),
        ("logbroker/cli/main.py", "from logbroker.testing import clock", "cli may not use testing"),
        ("logbroker/testing/clock.py", "from logbroker.server import listener", "testing may not use server"),
        ("logbroker/node/broker.py", "import logbroker_client", "logbroker may not use logbroker_client"),
        ("logbroker/node/broker.py", "from tools import bench", "logbroker may not use tools"),
        (
            "logbroker/raft/core.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trio",
            "raft may not use trio",
        ),
        (
            "clients/python/logbroker_client/consumer.py",
            "from logbroker.memory import broker",
            "a client may not use logbroker.memory.broker",
        ),
        (
            "clients/python/logbroker_client/testing.py",
            "from logbroker.partition import machine",
            "a client may not use logbroker.partition.machine",
        ),
        ("logbroker/gateways/cmq.py", "from logbroker.memory import broker", "gateways may not use memory"),
        ("logbroker/strange/x.py", "", "strange has no layer; add it to the table"),
        (
            "clients/python/logbroker_client/consumer.py",
            "from logbroker.partition import runs",
            "a client may not use logbroker.partition.runs",
        ),
        ("clients/python/logbroker_client/consumer.py", "import logbroker", "a client may not use logbroker"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, code: str, fault: str) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True)
    planted.write_text(code)
    (found,) = faults(tmp_path)
    assert found.endswith(f": {fault}")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("logbroker/errors.py", "from logbroker.ids import NodeId"),
        ("logbroker/record/batch.py", "import struct, threading, zstandard\nfrom logbroker.record import checksum"),
        ("logbroker/partition/machine.py", "import msgspec\nfrom logbroker.record.batch import Record"),
        ("logbroker/wire/frames.py", "from logbroker import errors\nfrom ..record import batch"),
        ("logbroker/storage/wal.py", "import os\nimport lmdb\nfrom logbroker.raft.log import LogStorage"),
        ("logbroker/node/broker.py", "import trio\nfrom logbroker import config"),
        ("logbroker/server/listener.py", "from logbroker.node.broker import Broker"),
        ("logbroker/testing/cluster.py", "import random\nfrom logbroker.node.broker import Broker"),
        ("logbroker/__main__.py", "from logbroker.cli.main import main"),
        ("logbroker/cli/send.py", "from logbroker_client import connect"),
        ("clients/python/logbroker_client/core.py", "import trio\nfrom logbroker.wire import frames"),
        ("clients/python/logbroker_client/testing.py", "from logbroker.memory import broker"),
        ("logbroker/memory/broker.py", "from logbroker.server.session import Session"),
    ],
)
def test_an_allowed_import_passes(tmp_path: Path, path: str, code: str) -> None:
    planted = tmp_path / path
    planted.parent.mkdir(parents=True)
    planted.write_text(code)
    assert faults(tmp_path) == []
