"""Facts from a running cluster: counts through the client protocol, files through the admin listener of each node."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from logbroker.errors import LogBrokerError, UnavailableError
from tools.retention_kit.facts import File, Group, NodeFiles, Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.cli.admin import AdminNode
    from logbroker.wire.requests import PartitionDescription, QueueDescription
    from logbroker_client import Client


async def describe(
    client: Client, names: Sequence[str], *, tell: Callable[[int, int, str], None]
) -> list[QueueDescription]:
    """Describe the queues, all that the token may see if none is named; `tell` learns (done, all, name)."""
    wanted = list(names) or sorted(info.name for info in await client.list_queues())
    found = []
    for done, name in enumerate(wanted):
        tell(done, len(wanted), name)
        found.append(await client.describe_queue(name))
    return found


def partitions_of(found: QueueDescription) -> list[Partition]:
    return [_partition(found, row) for row in found.partitions]


def _partition(found: QueueDescription, row: PartitionDescription) -> Partition:
    groups = tuple(
        Group(
            counts.name,
            counts.available + counts.leased + counts.delayed,
            counts.oldest_offset,
            counts.oldest_ms,
            counts.acked_ahead,
        )
        for counts in row.groups
    )
    return Partition(
        found.info.name,
        row.partition,
        found.info.settings.retention_ms,
        row.log_start,
        row.log_end,
        row.append_ms,
        groups,
        problem=row.problem,
    )


def files_of(node: AdminNode, queue: str) -> dict[int, NodeFiles]:
    """The files that one node has of a queue, by partition.

    Raises:
        LogBrokerError: it cannot be asked, or does not answer as it should.
    """
    status, text = node.get(f"/api/v1/segments?queue={quote(queue)}")
    try:
        page: Any = json.loads(text)
    except ValueError as error:
        raise UnavailableError(f"{node.url} does not answer in JSON, with status {status}") from error
    if status != 200:
        said = page.get("error", {})
        raise UnavailableError(f"{node.url}: {said.get('message', status)}", hint=said.get("hint", ""))
    return {row["partition"]: _files(page["node"], row) for row in page["partitions"]}


def _files(node: int, row: dict[str, Any]) -> NodeFiles:
    files = tuple(File(one["first_offset"], one["first_ms"], one["bytes"]) for one in row["segments"])
    last = row["last"]
    return NodeFiles(node, files, None if last is None else (last["offset"], last["ms"]))


def with_files(
    partitions: Sequence[Partition], nodes: Sequence[AdminNode], *, warn: Callable[[str], None]
) -> list[Partition]:
    """The partitions of one queue with the files of every node that answers."""
    found: list[dict[int, NodeFiles]] = []
    for node in nodes:
        try:
            found.append(files_of(node, partitions[0].queue))
        except LogBrokerError as error:
            warn(error.message)
    return [
        replace(partition, nodes=tuple(files[partition.number] for files in found if partition.number in files))
        for partition in partitions
    ]
