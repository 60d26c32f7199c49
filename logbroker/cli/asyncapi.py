"""`logbroker asyncapi`: the client protocol as a document for machines."""

from __future__ import annotations

import rich_click as click


@click.command(epilog="Example: logbroker asyncapi > docs/asyncapi.json")
def asyncapi() -> None:
    """Write the client protocol as an AsyncAPI 3.0 document in JSON.

    It has every request and reply with its fields, for whoever writes a client or has one generated. What it describes
    can be tried by hand: docs/json.md shows how.
    """
    import json

    from logbroker.server.asyncapi import document

    print(json.dumps(document(), indent=1, ensure_ascii=False))
