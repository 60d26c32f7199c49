"""The conventions of every command: help, exit codes, errors, colours, speed of start."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import rich_click as click

from logbroker import errors
from logbroker.cli.exits import Exit, exit_code
from logbroker.cli.main import cli, wants_json
from tests.unit.cli.kit import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.kit import FakeCluster


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(leaves(cli))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_shows_an_example_of_itself(path: tuple[str, ...]) -> None:
    shown = run(*path, "--help")
    assert shown.code == 0
    assert f"logbroker {' '.join(path)}" in " ".join(shown.out.split("Example")[1].split())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_does(path: tuple[str, ...]) -> None:
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if path[-1] in ("delete", "rewind", "skip-to", "bootstrap")]
)
def test_whatever_cannot_be_taken_back_can_be_confirmed_beforehand(path: tuple[str, ...]) -> None:
    assert "yes" in {parameter.name for parameter in COMMANDS[path].params}


def test_help_and_version_work_with_their_short_forms() -> None:
    assert run("-h").out == run("--help").out
    assert "0.1.0" in run("--version").out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnavailableError("x"), Exit.CANNOT_CONNECT),
        (errors.OverloadedError("x"), Exit.FAILED),
        (errors.NoRoomError("x"), Exit.FAILED),
        (errors.QueueFullError("x"), Exit.FAILED),
        (errors.UnknownOutcomeError("x"), Exit.TIMEOUT),
        (errors.UnauthenticatedError("x"), Exit.NOT_ALLOWED),
        (errors.ForbiddenError("x"), Exit.NOT_ALLOWED),
        (errors.NotFoundError("x"), Exit.NOT_FOUND),
        (errors.AlreadyExistsError("x"), Exit.CONFLICT),
        (errors.StaleLeaseError("x"), Exit.CONFLICT),
        (errors.OffsetOutOfRangeError("x"), Exit.CONFLICT),
        (errors.InvalidArgumentError("x"), Exit.USAGE),
        (errors.ConfigurationError("x"), Exit.FAILED),
        (errors.CorruptBatchError("x"), Exit.FAILED),
        (errors.RemoteProtocolError("x"), Exit.FAILED),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: errors.LogBrokerError, code: Exit) -> None:
    assert exit_code(error) is code


def test_the_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "CANNOT_CONNECT": 3,
        "NOT_ALLOWED": 4,
        "NOT_FOUND": 5,
        "DIFFERS": 6,
        "TIMEOUT": 7,
        "CONFLICT": 8,
        "PARTIAL": 9,
        "INTERRUPTED": 130,
    }


def test_an_error_is_words_and_a_hint_on_stderr(cluster: FakeCluster) -> None:
    cluster.fails = errors.NotFoundError("there is no queue x", hint="create it")
    ran = run("queue", "describe", "x")
    assert (ran.code, ran.out, ran.err) == (5, "", "error: there is no queue x\nhint: create it\n")


def test_an_error_is_json_where_json_was_asked_for(cluster: FakeCluster) -> None:
    cluster.fails = errors.NotFoundError("there is no queue x", hint="create it")
    ran = run("queue", "describe", "x", "-o", "json")
    expected = {"code": "NOT_FOUND", "message": "there is no queue x", "hint": "create it", "exit": 5}
    assert (ran.code, ran.out, json.loads(ran.err)) == (5, "", {"error": expected})


@pytest.mark.parametrize(
    "args",
    [("no-such-command",), ("queue", "create"), ("consume", "q", "-n", "0"), ("queue", "create", "q", "--hide", "5")],
)
def test_a_wrong_command_line_is_a_usage_error(args: tuple[str, ...]) -> None:
    ran = run(*args, "-o", "json")
    assert ran.code == 2
    assert json.loads(ran.err)["error"]["code"] == "USAGE"
    assert run(*args).err.startswith("error: ")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-o", "json"], True),
        (["x", "--output", "ndjson"], True),
        (["--output=json"], True),
        (["-ojson"], True),
        (["-o", "table"], False),
        (["-o"], False),
        (["--", "-o", "json"], False),
        ([], False),
    ],
)
def test_whether_json_is_wanted_is_known_before_anything_is_parsed(args: list[str], expected: bool) -> None:
    assert wants_json(args) is expected


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()])]), 130),
        (ExceptionGroup("", [errors.UnavailableError("a"), errors.NotFoundError("b")]), 5),
        (ExceptionGroup("", [errors.UnavailableError("a"), errors.UnavailableError("b")]), 3),
    ],
)
def test_what_trio_wraps_in_groups_is_still_recognised(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("logbroker_client.connect", fail)
    assert run("status").code == code


def test_nobody_is_asked_where_nobody_can_answer(cluster: FakeCluster) -> None:
    ran = run("queue", "delete", "orders", stdin=b"y\n")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert cluster.asked == []


def test_the_token_is_not_shown_by_anything(cluster: FakeCluster, tmp_path: object) -> None:
    cluster.fails = errors.UnauthenticatedError("the token is not known")
    ran = run("status", "--token", "lb1_canary", env={"LOGBROKER_URL": "ws://a:1 ws://b:2"})
    assert ran.code == 4
    assert "canary" not in ran.out + ran.err
    urls, options = cluster.connected[0]
    assert (urls, options["token"], options["timeout"]) == (["ws://a:1", "ws://b:2"], "lb1_canary", 10.0)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from logbroker.cli.main import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'trio', 'pydantic', 'pydantic_settings', 'msgspec', 'logbroker_client', 'lmdb', 'zstandard', 'ssl'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stderr.strip() == "[]"


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    code = (
        "import os, sys\n"
        "from logbroker.cli.main import cli\n"
        "read, write = os.pipe()\nos.close(read)\nos.dup2(write, 1)\n"
        "cli.main(['config', 'show'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")
