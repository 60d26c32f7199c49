"""The `logbroker` command: the tree of its commands, and what happens to their errors.

Everything that is imported here is imported for `--help` too, so the commands import what they work with when they run.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, final

import rich_click as click

from logbroker.cli.asyncapi import asyncapi
from logbroker.cli.cluster import bootstrap, clock
from logbroker.cli.config import config
from logbroker.cli.consume import ack, consume, nack, reject
from logbroker.cli.dead import dead
from logbroker.cli.doctor import doctor
from logbroker.cli.exits import Exit, describe, exit_code
from logbroker.cli.groups import group
from logbroker.cli.peek import peek
from logbroker.cli.produce import cancel, produce
from logbroker.cli.queues import queue
from logbroker.cli.repair import repair
from logbroker.cli.rewind import rewind, skip_to
from logbroker.cli.serve import dev, serve
from logbroker.cli.status import status
from logbroker.cli.tokens import token
from logbroker.errors import LogBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EPILOG = """
Exit codes: 0 ok, 1 failed, 2 usage, 3 cannot connect, 4 not allowed, 5 not found, 6 warnings or differences, 7 timeout,
8 conflict, 9 partly done, 130 interrupted.
"""


@final
class Root(click.RichGroup):
    """The tree of commands; ends every one with a documented exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:  # noqa: ANN401  click's
        given = list(sys.argv[1:] if args is None else args)
        end(partial(super().main, given, *rest, **options | {"standalone_mode": False}), given)


@final
class Tool(click.RichCommand):
    """A command that stands alone, for programs beside `logbroker`; ends as they do."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:  # noqa: ANN401  click's
        given = list(sys.argv[1:] if args is None else args)
        end(partial(super().main, given, *rest, **options | {"standalone_mode": False}), given)


def end(run: Callable[[], object], args: Sequence[str]) -> NoReturn:
    """Run a command and end this process, its errors in words and by one of the documented exit codes."""
    as_json = wants_json(args)
    try:
        result = run()
        # What is still in the buffer may meet a closed pipe; better here than at exit.
        sys.stdout.flush()
    except LogBrokerError as error:
        _fail(error.code, error.message, hint=error.hint, exit_code=exit_code(error), as_json=as_json)
    except click.UsageError as error:
        hint = f"{error.ctx.command_path} --help" if error.ctx else "logbroker --help"
        _fail("usage", error.format_message(), hint=hint, exit_code=Exit.USAGE, as_json=as_json)
    except click.ClickException as error:
        _fail("failed", error.format_message(), exit_code=Exit.FAILED, as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", "interrupted", exit_code=Exit.INTERRUPTED, as_json=as_json)
    except BrokenPipeError:
        # Whoever read the output has seen enough. Nothing may be written to stdout from here on, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FAILED)
    sys.exit(result if isinstance(result, int) else Exit.OK)


def wants_json(args: Sequence[str]) -> bool:
    """Say whether the command line asks for JSON, read before it is parsed: its own errors are JSON then too."""
    for place, arg in enumerate(args):
        if arg == "--":
            return False
        name, _, value = arg.partition("=")
        if name in ("-o", "--output"):
            value = value or (args[place + 1] if place + 1 < len(args) else "")
            return value in ("json", "ndjson")
        if arg in ("-ojson", "-ondjson"):
            return True
    return False


def _fail(code: str, message: str, *, hint: str = "", exit_code: int, as_json: bool) -> NoReturn:
    text = describe(code=code, message=message, hint=hint, exit_code=exit_code, as_json=as_json)
    print(text, file=sys.stderr)
    sys.exit(exit_code)


@click.group(cls=Root, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="logbroker", prog_name="logbroker")
def cli() -> None:
    """A message queue whose log is replicated by Raft.

    Try it: `logbroker dev` in one terminal, then in another:

    \b
      logbroker queue create orders
      echo hello | logbroker produce orders
      logbroker consume orders
      logbroker rewind orders --to -1h
    """


for command in (
    serve,
    dev,
    queue,
    group,
    produce,
    cancel,
    consume,
    ack,
    nack,
    reject,
    peek,
    dead,
    rewind,
    skip_to,
    status,
    token,
    config,
    asyncapi,
    doctor,
    repair,
    bootstrap,
    clock,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line of this process."""
    cli.main()
