"""What clients asked and what they were told, with the bounds in which the answer must have been true.

It records and judges nothing; `checkers` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from logbroker.ids import GroupId, Index, NodeId

if TYPE_CHECKING:
    from logbroker.errors import LogBrokerError
    from logbroker.node.requests import Reply, Request


_NO_INDEX = Index(0)


@final
class Verdict(Enum):
    """What the client knows about one attempt of an operation."""

    PENDING = "pending"
    OK = "ok"
    REFUSED = "refused"
    """The broker said that nothing was done, and why."""
    UNKNOWN = "unknown"
    """Timed out, connection lost, or the broker said so: it may have been done, and may yet be."""


@final
@dataclass(slots=True)
class Operation:
    """One attempt of one client at one node."""

    number: int
    client: str
    node: NodeId
    partition: GroupId
    request: Request
    invoked_us: int
    # Highest index committed anywhere when the client asked: an answer made from less is a stale one.
    committed_before: Index
    verdict: Verdict = Verdict.PENDING
    completed_us: int = -1
    # What the answering node had applied when it answered: an answer made from more is from the future.
    applied_at_reply: Index = _NO_INDEX
    # The answering node had entries in its log that were not applied yet: it may have decided on those too.
    had_more_at_reply: bool = True
    answer: Reply | None = None
    error: LogBrokerError | None = None

    def describe(self) -> str:
        told = self.answer if self.error is None else f"{type(self.error).__name__}: {self.error}"
        return (
            f"operation {self.number} of {self.client} at node {self.node}, group {self.partition}: {self.request} "
            f"-> {self.verdict.value} {told} (asked at commit {self.committed_before}, "
            f"answered at {self.applied_at_reply})"
        )


@final
class History:
    """All operations of a run, in the order in which they began."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.counts: dict[str, int] = {}

    def begin(
        self, client: str, node: NodeId, partition: GroupId, request: Request, *, now_us: int, committed: Index
    ) -> Operation:
        operation = Operation(len(self.operations), client, node, partition, request, now_us, committed)
        self.operations.append(operation)
        return operation

    def complete(
        self,
        operation: Operation,
        *,
        now_us: int,
        applied: Index,
        answer: Reply | None,
        error: LogBrokerError | None,
        verdict: Verdict,
    ) -> None:
        operation.completed_us = now_us
        operation.applied_at_reply = applied
        operation.answer = answer
        operation.error = error
        operation.verdict = verdict
        name = f"{type(operation.request).__name__} {verdict.value}"
        if error is not None:
            name += f" {error.code}"
        self.counts[name] = self.counts.get(name, 0) + 1
