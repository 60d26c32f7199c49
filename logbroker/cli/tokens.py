"""`logbroker token`: who may do what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.connection import Connection, connection_options
from logbroker.cli.output import Format, Output, confirm, output_options

if TYPE_CHECKING:
    from logbroker.wire.requests import TokenInfo
    from logbroker_client import Client


@click.group()
def token() -> None:
    """Create, list and delete access tokens."""


@token.command(epilog="Example: logbroker token create shop --grant 'orders-*:produce' --grant returns:produce,consume")
@click.argument("name")
@click.option(
    "--grant",
    "grants",
    multiple=True,
    required=True,
    metavar="PATTERN:RIGHTS",
    help="A queue's name, or its beginning and *; then produce, consume, rewind, purge, admin or all, with commas.",
)
@output_options
@connection_options
def create(name: str, grants: tuple[str, ...], output: Output, connection: Connection) -> None:
    """Make a token and write it to stdout. It is shown this once: only its digest is kept."""
    from logbroker.node.catalogue.rights import parse_grant

    # Told here what is wrong, and sent in the one form that the server prints again.
    rights = [str(parse_grant(grant)) for grant in grants]

    async def work(client: Client) -> str:
        return await client.create_token(name, rights)

    made = connection.run(work)
    if output.format is Format.TABLE:
        print(made)
    else:
        output.one({"name": name, "rights": rights, "token": made})
    output.say(f"token {name} created; it is not shown again")


@token.command(name="list", epilog="Example: logbroker token list -o json")
@output_options
@connection_options
def list_tokens(output: Output, connection: Connection) -> None:
    """List the names of all tokens and what they grant."""

    async def work(client: Client) -> list[TokenInfo]:
        return await client.list_tokens()

    output.rows([{"name": row.name, "rights": list(row.rights)} for row in connection.run(work)], ("name", "rights"))


@token.command(epilog="Example: logbroker token delete shop --yes")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_options
@connection_options
def delete(name: str, yes: bool, output: Output, connection: Connection) -> None:
    """Delete a token; whoever uses it is shut out."""
    confirm(f"Delete token {name}?", is_confirmed=yes)

    async def work(client: Client) -> None:
        await client.delete_token(name)

    connection.run(work)
    output.say(f"token {name} deleted")


@token.command(epilog="Example: (umask 077; logbroker token generate > root.token)")
def generate() -> None:
    """Write a new random token to stdout, for `auth.root_token_file`. No cluster is asked."""
    import secrets

    from logbroker.node.tokens import RANDOM_BYTES, make_token

    print(make_token(secrets.token_bytes(RANDOM_BYTES)))
