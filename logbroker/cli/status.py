"""`logbroker status`: the cluster as one of its nodes sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Format, Output, output_options

if TYPE_CHECKING:
    from logbroker.wire.requests import StatusReply
    from logbroker_client import Client

_NODE_COLUMNS = ("node", "url", "state", "detail")
_GROUP_COLUMNS = ("group", "queue", "partition", "role", "leader", "term", "commit", "applied", "detail")


@click.command(epilog="Example: logbroker status -o json | jq .problems")
@output_options
@connection_options
def status(output: Output, connection: Connection) -> None:
    """Show nodes, Raft groups and problems."""

    async def work(client: Client) -> StatusReply:
        return await client.status()

    found = connection.run(work)
    nodes = [{name: getattr(row, name) for name in _NODE_COLUMNS} for row in found.nodes]
    groups = [{name: getattr(row, name) for name in _GROUP_COLUMNS} for row in found.groups]
    if output.format is not Format.TABLE:
        output.one({"nodes": nodes, "groups": groups, "problems": list(found.problems)})
        return
    output.rows(nodes, _NODE_COLUMNS)
    print()
    output.rows(groups, _GROUP_COLUMNS)
    print()
    for problem in found.problems:
        print(f"problem: {problem}")
    if not found.problems:
        print("no problems")
