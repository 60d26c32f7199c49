"""Killing and restarting nodes by commands."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from clients.examples.recharge.nodes import CommandControl, NodeControlError

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_command_is_told_the_node_and_returns_when_it_is_done(tmp_path: Path) -> None:
    control = CommandControl(f"touch '{tmp_path}/killed {{node}}'", f"rm '{tmp_path}/killed {{node}}'")
    await control.kill(2)
    assert os.listdir(tmp_path) == ["killed 2"]
    await control.restart(2)
    assert os.listdir(tmp_path) == []


async def test_a_command_that_fails_says_what_it_said() -> None:
    program = "import sys; print('no node', sys.argv[1], file=sys.stderr); sys.exit(3)"
    control = CommandControl(f'{sys.executable} -c "{program}" {{node}}', "true")
    with pytest.raises(NodeControlError, match="ended with 3: no node 7"):
        await control.kill(7)


async def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(NodeControlError, match=r"no-such-command 1: .*No such file"):
        await CommandControl("no-such-command {node}", "true").kill(1)
