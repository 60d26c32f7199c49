"""`logbroker repair`: an operator's word for damage that no other node can mend. Without --yes it only says."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from logbroker.cli.exits import Exit
from logbroker.cli.output import Format, Output, output_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.storage.disk import Disk
    from logbroker.storage.inspection import Finding, Inspection
    from logbroker.storage.node_store import NodeStore
    from logbroker.storage.repair import Step

_COLUMNS = ("action", "what", "detail")
WOULD, DONE, STAYS, REFUSED = "would", "done", "stays", "cannot"


@click.command(epilog="Example: logbroker repair /var/lib/logbroker")
@click.argument("data_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("-y", "--yes", is_flag=True, help="Do it. Without this nothing is changed.")
@click.option(
    "--give-up-last",
    is_flag=True,
    help="Go on also without a lost last entry of which nothing is readable: its offsets may be given out again.",
)
@output_options
def repair(data_dir: Path, yes: bool, give_up_last: bool, output: Output) -> int:
    """Let a stopped node's groups go on past damage that no other node can mend.

    Damage that other replicas can mend is none of this command's business: start them, and it is fetched. It is for a
    node that is alone. A lost entry above the newest checkpoint, which a group cannot be applied past, is replaced by a
    stand-in without effect: a lost batch keeps its offsets, and consumers are told `corrupt` for each of its messages;
    a lost change of leases or acks means that messages may be delivered once more. A node.json with one rotten bit is
    read right again.

    Keep a copy of the directory first. Exit code 0: nothing to do, or done; 6: something would be done; 9: done in
    part, or something cannot be done; what, is said.
    """
    rows = list(_repaired(data_dir, give_up_last=give_up_last) if yes else _planned(data_dir))
    if output.format is Format.TABLE and not rows:
        print("nothing to repair")
    else:
        output.rows(rows, _COLUMNS)
    actions = {row["action"] for row in rows}
    if REFUSED in actions:
        return Exit.PARTIAL
    if WOULD in actions:
        output.say("nothing was changed; --yes does it. Keep a copy of the directory first")
        return Exit.DIFFERS
    return Exit.OK


def _row(action: str, what: str, detail: str, **more: int) -> dict[str, object]:
    return {"action": action, "what": what, "detail": detail, **more}


def _planned(root: Path) -> Iterator[dict[str, object]]:
    from logbroker.storage.disk import read_data_directory
    from logbroker.storage.identity import NODE_FILE, mended_identity

    with read_data_directory(root) as disk:
        inspection = _inspected(disk)
        for finding in inspection.findings:
            if finding.code == "identity" and disk.exists(NODE_FILE) and mended_identity(disk) is not None:
                yield _row(WOULD, NODE_FILE, "one bit of it has rotted: turn it back; then look again for what else")
            else:
                yield from _planned_for(inspection, finding)


def _inspected(disk: Disk) -> Inspection:
    from logbroker.storage.inspection import Inspection

    inspection = Inspection(disk)
    inspection.run()
    return inspection


def _planned_for(inspection: Inspection, finding: Finding) -> Iterator[dict[str, object]]:
    from logbroker.storage.inspection import Remedy

    if finding.remedy is not Remedy.OPERATOR:
        return
    if finding.code != "entry":
        detail = f"{finding.detail}; this command does not mend it: restore a backup"
        yield _row(REFUSED, finding.place or finding.code, detail, replica=finding.replica)
        return
    what = f"entry {finding.index} of group {finding.group}"
    more = {"group": finding.group, "replica": finding.replica, "index": finding.index, "term": finding.term}
    if finding.index <= inspection.checkpointed.get(finding.replica, 0):
        detail = "its effect is in the checkpoint; of its messages, if it had any, consumers are told `corrupt`"
        yield _row(STAYS, what, detail, **more)
    else:
        yield _row(WOULD, what, f"put a stand-in without effect in its place: {finding.detail}", **more)


def _repaired(root: Path, *, give_up_last: bool) -> Iterator[dict[str, object]]:
    from logbroker.storage.disk import open_data_directory
    from logbroker.storage.identity import NODE_FILE, mended_identity, read_identity, restore_identity
    from logbroker.storage.repair import repair_store

    before = list(_planned(root))
    yield from (row for row in before if row["action"] in (STAYS, REFUSED))
    with open_data_directory(root) as disk:
        identity = read_identity(disk)
        if identity is None:
            text = mended_identity(disk) if disk.exists(NODE_FILE) else None
            if text is None:
                return
            restore_identity(disk, text)
            yield _row(DONE, NODE_FILE, "the rotten bit is turned back")
        if not any(row["action"] == WOULD for row in _entries_of(disk)):
            return
        with _opened(root, disk) as store:
            for step in repair_store(
                store, is_alone=_is_alone(disk, store.identity.incarnation), gives_up_last=give_up_last
            ):
                yield _step_row(step)


def _entries_of(disk: Disk) -> Iterator[dict[str, object]]:
    inspection = _inspected(disk)
    for finding in inspection.findings:
        if finding.code == "entry":
            yield from _planned_for(inspection, finding)


def _step_row(step: Step) -> dict[str, object]:
    what = f"entry {step.index} of group {step.group}"
    more = {"group": step.group, "replica": step.replica, "index": step.index, "term": step.term}
    if step.refusal:
        return _row(REFUSED, what, step.refusal, **more)
    start, end = step.offsets
    lost = f"messages {start}..{end - 1} are lost and answer `corrupt`" if end > start else "it had no messages"
    return _row(DONE, what, lost, **more)


@contextmanager
def _opened(root: Path, disk: Disk) -> Iterator[NodeStore]:
    """The store as a node opens it, with files of the sizes that are there."""
    import secrets

    from logbroker.errors import StorageError
    from logbroker.storage.identity import read_identity
    from logbroker.storage.index import LmdbIndex
    from logbroker.storage.node_store import StoreOptions
    from logbroker.storage.recovery import INDEX_NAME, open_store
    from logbroker.storage.wal import WAL_DIRECTORY, WalOptions

    identity = read_identity(disk)
    if identity is None:
        raise StorageError(f"{root} is not readable as a node's data directory")
    sizes = [disk.size(f"{WAL_DIRECTORY}/{name}") for name in disk.list(WAL_DIRECTORY)]
    store = open_store(
        disk,
        StoreOptions(WalOptions(max(sizes, default=WalOptions().file_bytes), max_files=max(8, len(sizes) + 2))),
        node=identity.node,
        open_index=lambda: LmdbIndex.open(root / INDEX_NAME),
        random_bytes=secrets.token_bytes,
    )
    try:
        yield store
    finally:
        store.close()


def _is_alone(disk: Disk, incarnation: bytes) -> bool:
    """Whether no other node ever was in this one's cluster, as far as the directory tells."""
    from logbroker.errors import LogBrokerError
    from logbroker.node.cluster_file import ClusterFile

    try:
        record = ClusterFile(disk, incarnation).read().record
    except LogBrokerError:
        return False
    return record is None or len(record.nodes) <= 1
