"""The leader's side of the meta group: commands in, proposals and their outcomes out.

As in `partition_service`, a command is tried on `ahead` (applied state plus every later entry of the own log), proposed
in the same synchronous step, and answered from what apply made of it. What is refused never reaches the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast, final

from logbroker.entry import Entry, EntryKind
from logbroker.errors import InvalidArgumentError, LogBrokerError, StorageError, invariant
from logbroker.ids import Index, Offset
from logbroker.node.catalogue import Applied, Catalogue, CatalogueLimits, Outcome, Refused
from logbroker.node.catalogue.commands import Bootstrap, Command, encode_commands
from logbroker.partition.commands import Floor, encode_floor
from logbroker.raft.refusal import ProposalRefused

if TYPE_CHECKING:
    from logbroker.node.replica import Replica
    from logbroker.node.requests import Answer, Request

MAX_LOG_ENTRIES = 20_000
KEPT_LOG_ENTRIES = 10_000
"""Entries of the meta group kept for followers that lag; beyond the most, older ones make room."""

OnOutcome = Callable[[Outcome | LogBrokerError], None]


@final
class CatalogueService:
    """See the module. `bootstrap` gives the first command, or None on a node that was not there at the first boot."""

    def __init__(self, replica: Replica, *, limits: CatalogueLimits, bootstrap: Callable[[], Bootstrap | None]) -> None:
        self.changes = 0
        """Entries applied since this service was made that changed something."""
        self._replica = replica
        self._limits = limits
        self._bootstrap = bootstrap

    @property
    def catalogue(self) -> Catalogue:
        """The applied state."""
        return cast("Catalogue", self._replica.machine)

    @property
    def replica(self) -> Replica:
        return self._replica

    def submit(self, request: Request, answer: Answer) -> None:
        """The door of partitions; this group has none of their requests."""
        answer(InvalidArgumentError(f"the meta group takes commands, not {type(request).__name__}"))

    def propose(self, command: Command, on_outcome: OnOutcome) -> None:
        """Carry a command out; `on_outcome` is called exactly once, now or later. A refusal comes as its error."""
        try:
            self._propose(command, on_outcome)
        except LogBrokerError as error:
            on_outcome(error)

    def read(self, on_ready: Callable[[Catalogue | LogBrokerError], None]) -> None:
        """Give the applied catalogue once it is at least as new as this moment (read index)."""
        try:
            self._replica.read(lambda: on_ready(self.catalogue), on_ready)
        except LogBrokerError as error:
            on_ready(error)

    def on_leading(self) -> None:
        command = self._bootstrap()
        if self._ahead().is_bootstrapped or command is None:
            return
        self.propose(command, lambda _: None)

    def on_leadership_lost(self, error: Callable[[], LogBrokerError]) -> None:
        """Whoever waits, waits in the replica, which tells them."""

    def on_applied(self, entry: Entry, applied: object) -> None:
        self.changes += _as_applied(applied).changed

    def on_tick(self, now_ms: int) -> int:
        # What is refused is tried again at the next tick; nothing was appended.
        with contextlib.suppress(ProposalRefused, StorageError):
            if not self._ahead().is_bootstrapped:
                self.on_leading()
            self._move_floor()
        return now_ms

    def after_pump(self) -> None: ...

    def _propose(self, command: Command, on_outcome: OnOutcome) -> None:
        ahead = self._ahead()
        append_ms = self._replica.stamp_ms()
        outcome = ahead.preview(command, self._limits, now_ms=append_ms)
        if isinstance(outcome, Refused) or getattr(outcome, "already", False):
            # What it rests on may not be committed yet: it is no answer before it is.
            self._replica.when_applied(ahead.applied_index, lambda: on_outcome(_answer(outcome)), on_outcome)
            return
        self._replica.propose(
            EntryKind.STATE,
            encode_commands((command,)),
            append_ms=append_ms,
            on_committed=lambda applied: on_outcome(_answer(_as_applied(applied).outcomes[0])),
            on_lost=on_outcome,
        )

    def _move_floor(self) -> None:
        """Keep the log from growing for ever: what is in checkpoints anyway need not be kept."""
        ahead = self._ahead()
        if ahead.applied_index - ahead.log_start_index < MAX_LOG_ENTRIES:
            return
        floor = Floor(Offset(0), Index(ahead.applied_index - KEPT_LOG_ENTRIES))
        self._replica.propose(
            EntryKind.FLOOR,
            encode_floor(floor),
            append_ms=self._replica.stamp_ms(),
            on_committed=lambda _: None,
            on_lost=lambda _: None,
        )

    def _ahead(self) -> Catalogue:
        return cast("Catalogue", self._replica.require_ahead())


def _answer(outcome: Outcome) -> Outcome | LogBrokerError:
    return outcome.error() if isinstance(outcome, Refused) else outcome


def _as_applied(applied: object) -> Applied:
    invariant(isinstance(applied, Applied), "the catalogue answers with something else")
    return cast("Applied", applied)
