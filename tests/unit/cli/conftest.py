"""A fake cluster in the place of the client, and no environment of this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.cli.kit import FakeCluster

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LOGBROKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster()
    monkeypatch.setattr("logbroker_client.connect", fake.connect)
    return fake
