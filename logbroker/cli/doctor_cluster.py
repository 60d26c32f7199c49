"""`logbroker doctor --server URL`: what running nodes say of themselves and of each other, and what to do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final

from logbroker.cli.findings import Finding, Verdict
from logbroker.errors import LogBrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from logbroker.cli.admin import AdminNode

Page = dict[str, Any]
"""A status page: JSON, as the admin listener gives it."""

_HINTS: tuple[tuple[str, Verdict, str], ...] = (
    # Words of a problem as a node puts it; the first that fit count.
    (" stopped: ", Verdict.FAILED, "keep the message; stop the node and run `logbroker doctor DATA_DIR` on its data"),
    ("has no leader", Verdict.FAILED, "start the nodes that are down, or mend the network between them"),
    (
        "no other replica to fetch",
        Verdict.FAILED,
        "messages answer `corrupt`; if the group has no leader either: stop the node, copy its data, logbroker repair",
    ),
    (
        "damaged entries",
        Verdict.WARNING,
        "nothing while other replicas are up: they are fetched; if the number stays, start the nodes that are down, "
        "and where there is no other replica see `logbroker repair --help`",
    ),
    ("is filling", Verdict.WARNING, "nothing: a replica is being filled"),
    ("off the median", Verdict.WARNING, "set the clock of this node right (NTP); until then it does not lead"),
    ("ahead of log time", Verdict.WARNING, "if that clock is right: logbroker clock accept"),
    ("on its way to the disk", Verdict.FAILED, "the disk hangs: look at the kernel's log; leaders have moved away"),
    ("waits for a flush", Verdict.FAILED, "the flusher is late: look at the disk and at its room"),
    ("little room", Verdict.FAILED, "free room on the disk; produce is taken again 10 s later at the latest"),
    (
        "write-ahead log is damaged",
        Verdict.WARNING,
        "nothing: a flush leaves it behind; if it comes back, replace the disk",
    ),
    ("flush record are damaged", Verdict.WARNING, "nothing: a flush writes them; if it comes back, replace the disk"),
    ("newer one is written", Verdict.WARNING, "nothing: if it comes back, replace the disk"),
    (" is gone: start", Verdict.FAILED, "as it says; look at who removes files from the data directory"),
    ("lost", Verdict.WARNING, "nothing while a majority is up: the replica is replaced"),
    ("waits for", Verdict.WARNING, "start that node; a first boot may go without it: logbroker bootstrap --without N"),
)


def examine_cluster(nodes: Sequence[AdminNode]) -> Iterator[Finding]:
    """Ask each node, then hold what they say against each other."""
    pages: dict[str, Page] = {}
    for node in nodes:
        try:
            pages[node.url] = _page(node)
        except LogBrokerError as error:
            hint = error.hint if error.code != "unavailable" else "is the node started, and is this its admin listener?"
            yield Finding("node", Verdict.FAILED, error.message, hint)
    for url, page in pages.items():
        yield from _Node(url, page).findings()
    if len(pages) > 1:
        yield from _together(pages)
    elif pages:
        yield from _alone(*pages.values())


def _page(node: AdminNode) -> Page:
    from logbroker.errors import ForbiddenError, UnauthenticatedError, UnavailableError

    status, text = node.get("/status")
    if status in (401, 403):
        kind = UnauthenticatedError if status == 401 else ForbiddenError
        raise kind(f"the node at {node.url} does not let this token see its status", hint="an admin token is needed")
    try:
        page = json.loads(text)
    except ValueError:
        page = None
    if status != 200 or not isinstance(page, dict) or "node" not in page:
        raise UnavailableError(f"{node.url}/status answered with status {status} and no status page")
    return page


@final
class _Node:
    def __init__(self, url: str, page: Page) -> None:
        self._page = page
        self._name = f"node {page['node']}"

    def findings(self) -> Iterator[Finding]:
        page = self._page
        phase = page["cluster"]["phase"]
        is_ready, is_draining = page["ready"], page["draining"]
        if is_draining:
            yield Finding(self._name, Verdict.WARNING, "it is shutting down")
        elif is_ready:
            groups = page["groups"]
            leads = sum(bool(group["is_leader"]) for group in groups)
            yield Finding(self._name, Verdict.OK, f"ready, {phase}, leads {leads} of {len(groups)} groups")
        else:
            yield Finding(self._name, Verdict.WARNING, f"not ready, {phase}", "see what else is said of it")
        for peer in page["peers"]:
            if not peer["connected"]:
                detail = f"node {peer['node']} at {peer['address']} cannot be reached: {peer['fault'] or 'no answer'}"
                hint = "start it, or mend the network; three nodes go on without one, and with nothing to spare"
                yield Finding(self._name, Verdict.WARNING, detail, hint)
        yield from self._problems(page["problems"])
        yield from self._scrubbed(page.get("scrub"))

    def _problems(self, problems: Sequence[str]) -> Iterator[Finding]:
        for problem in problems:
            for words, verdict, hint in _HINTS:
                if words in problem:
                    yield Finding(self._name, verdict, problem, hint)
                    break
            else:
                yield Finding(self._name, Verdict.WARNING, problem)

    def _scrubbed(self, scrub: Mapping[str, Any] | None) -> Iterator[Finding]:
        if scrub is None:
            return
        rot = {what: scrub[what] for what in ("damaged_entries", "damaged_checkpoints", "damaged_wal", "mended_copies")}
        if any(rot.values()):
            told = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in rot.items() if count)
            hint = "it was put right, or is named above; a disk that rots again and again is to be replaced"
            yield Finding(f"{self._name} scrub", Verdict.WARNING, f"rot was found since the start: {told}", hint)
        else:
            yield Finding(f"{self._name} scrub", Verdict.OK, f"no rot in {scrub['rounds']} rounds since the start")


def _alone(page: Page) -> Iterator[Finding]:
    others = [str(row["node"]) for row in page["cluster"]["nodes"] if row["node"] != page["node"]]
    if others:
        detail = f"node {page['node']} alone was asked, of {len(others) + 1}"
        yield Finding("cluster", Verdict.OK, detail, f"give --server for nodes {', '.join(others)} too")


def _together(pages: Mapping[str, Page]) -> Iterator[Finding]:
    clusters = {page["cluster"]["id"]: page["node"] for page in pages.values() if page["cluster"]["id"]}
    if len(clusters) > 1:
        named = ", ".join(f"node {node}: {found[:8]}" for found, node in clusters.items())
        yield Finding("cluster", Verdict.FAILED, f"these nodes are not of one cluster ({named})", "ask each alone")
        return
    versions = {str(page.get("version", "unknown")) for page in pages.values()}
    if len(versions) > 1:
        detail = f"the nodes run versions {', '.join(sorted(versions))}"
        yield Finding("cluster", Verdict.WARNING, detail, "end the upgrade: one version is all that is tested for long")
    yield from _leaders(pages)
    known = {row["node"] for page in pages.values() for row in page["cluster"]["nodes"]}
    missing = sorted(known - {page["node"] for page in pages.values()})
    asked = f"{len(pages)} of {len(known) or len(pages)} nodes were asked"
    hint = f"give --server for nodes {', '.join(map(str, missing))} too" if missing else ""
    yield Finding("cluster", Verdict.OK, asked, hint)


def _leaders(pages: Mapping[str, Page]) -> Iterator[Finding]:
    """More than one leader of a group in the same term is against the first rule of Raft."""
    led: dict[tuple[int, int], list[int]] = {}
    for page in pages.values():
        for group in page["groups"]:
            if group["is_leader"]:
                led.setdefault((group["group"], group["term"]), []).append(page["node"])
    for (group, term), nodes in sorted(led.items()):
        if len(nodes) > 1:
            detail = f"nodes {', '.join(map(str, nodes))} all lead group {group} in term {term}"
            yield Finding("cluster", Verdict.FAILED, detail, "stop all but one and report this: it never happens")
