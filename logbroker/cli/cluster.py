"""`logbroker bootstrap` and `logbroker clock`: an operator's word where a node waits for one."""

from __future__ import annotations

import rich_click as click

from logbroker.cli.admin import AdminNode, admin_options
from logbroker.cli.output import Output, confirm, output_options

BOOTSTRAP_PATH = "/api/v1/bootstrap"
ACCEPT_CLOCK_PATH = "/api/v1/clock/accept"


@click.command(epilog="Example: logbroker bootstrap --without 3 --admin-url http://node1:4101")
@click.option(
    "--without",
    "missing",
    multiple=True,
    required=True,
    type=click.IntRange(1),
    metavar="NODE",
    help="Number of a node of initial_nodes to go on without; repeatable.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@admin_options
def bootstrap(missing: tuple[int, ...], yes: bool, output: Output, node: AdminNode) -> None:
    """Let a new cluster begin although nodes are missing; they join later and are filled.

    Only for a cluster that never ran: a node that is left out must not be part of it already.
    """
    named = ", ".join(map(str, missing))
    confirm(f"Begin a new cluster without node {named}, which never was in one?", is_confirmed=yes)
    output.one(node.post(BOOTSTRAP_PATH, {"without": sorted(set(missing))}))
    output.say(f"the node at {node.url} goes on without {named}")


@click.group()
def clock() -> None:
    """The clock of a node."""


@clock.command(epilog="Example: logbroker clock accept --admin-url http://node1:4101")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@admin_options
def accept(yes: bool, output: Output, node: AdminNode) -> None:
    """Have a node follow a large step of its clock, which it does not do by itself.

    From then on retention by time counts on that clock: a wrong one removes messages early.
    """
    confirm(f"Is the clock of the node at {node.url} right, and retention to follow it?", is_confirmed=yes)
    output.one(node.post(ACCEPT_CLOCK_PATH, {}))
    output.say(f"the node at {node.url} follows its clock")
