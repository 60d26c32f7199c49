"""Simulated clients whose messages have ids of their own: they send some of them again, under whatever name.

They do what a business does that was interrupted: it knows which message it wanted sent, and not whether it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.node.requests import ProduceReply, ProduceRequest
from logbroker.record.batch import Record, encode_batch
from logbroker.record.dedup_ids import DEDUP_HEADER
from logbroker.testing.history import Verdict
from logbroker.testing.scheduler import US_PER_MS, US_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logbroker.ids import GroupId
    from logbroker.testing.history import Operation
    from logbroker.testing.workload import Cluster, Ledger, Route, WorkloadProfile

_RECENT = 12


@final
class IdPool:
    """The messages with ids that the senders of one partition have thought of, in that order."""

    def __init__(self, partition: GroupId) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        """Id and first value."""
        self._partition = partition

    def new(self) -> tuple[bytes, bytes]:
        name = b"order %d/%d" % (self._partition, len(self.messages))
        self.messages.append((name, name + b" as it is"))
        return self.messages[-1]


@final
class IdSender:
    """Sends one small batch at a time until it is answered, and now and then begins again as somebody else."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        route: Route,
        partition: GroupId,
        name: str,
        profile: WorkloadProfile,
        pool: IdPool,
        *,
        is_numbered: bool,
    ) -> None:
        """`is_numbered`: its batches have sequences, as those of most producers do."""
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._ledger = ledger
        self._route = route
        self._partition = partition
        self._name = name
        self._profile = profile
        self._pool = pool
        self._is_numbered = is_numbered
        self._random = self._scheduler.random(f"ids {name}")
        self._stopped = False
        self._plain_count = 0
        # What is sent and not answered yet; a new object for each batch.
        self._pending: list[tuple[bytes | None, bytes]] = []
        self._begin_life()

    def start(self) -> None:
        self._later()

    def stop(self) -> None:
        self._stopped = True

    @property
    def is_idle(self) -> bool:
        return not self._pending

    def _begin_life(self) -> None:
        self._producer_id = self._random.getrandbits(62) + 1
        self._next_sequence = 0

    def _later(self) -> None:
        mean_us = US_PER_S / self._profile.id_batches_per_second
        self._scheduler.after(int(self._random.expovariate(1) * mean_us) + 1, self._act)

    def _act(self) -> None:
        if self._stopped:
            return
        if not self._pending:
            self._pending = [self._choose() for _ in range(self._random.choice((1, 1, 2, 5)))]
            self._send_pending()
        self._later()

    def _choose(self) -> tuple[bytes | None, bytes]:
        draw, known = self._random.random(), self._pool.messages
        if draw < 0.4 or not known:
            return self._pool.new()
        if draw < 0.7:
            return self._random.choice(known[-_RECENT:])
        if draw < 0.8:
            return self._random.choice(known)
        if draw < 0.95 or not self._is_numbered:
            name, _ = self._random.choice(known[-_RECENT:])
            return name, name + b" changed %d" % self._random.randrange(2)
        self._plain_count += 1
        return None, b"%s says %d" % (self._name.encode(), self._plain_count)

    def _send_pending(self) -> None:
        """Make a batch of what is pending, and send it until it is answered."""
        records = [
            Record(value, headers=() if name is None else ((DEDUP_HEADER, name),), timestamp_ms=self._cluster.wall_ms())
            for name, value in self._pending
        ]
        self._ledger.sent.update([value for _, value in self._pending])
        if self._is_numbered:
            data = encode_batch(
                records, producer_id=self._producer_id, producer_epoch=0, base_sequence=self._next_sequence
            )
            self._next_sequence += len(records)
        else:
            data = encode_batch(records)
        delay_ms = self._random.choice((0, 0, 0, min(1_500, self._profile.max_delay_ms)))
        for _, value in self._pending:
            self._ledger.delays.setdefault(value, []).append((delay_ms, 0))
        self._try(ProduceRequest(data, delay_ms, dedup=True), self._pending)

    def _try(self, request: ProduceRequest, sent: list[tuple[bytes | None, bytes]]) -> None:
        self._route.call(
            request,
            timeout_us=self._random.randrange(1 * US_PER_S, 4 * US_PER_S),
            done=lambda operation: self._on_answer(request, sent, operation),
        )

    def _on_answer(self, request: ProduceRequest, sent: list[tuple[bytes | None, bytes]], operation: Operation) -> None:
        if operation.verdict is Verdict.OK:
            self._on_confirmed(sent, operation)
        if sent is not self._pending:
            return
        if operation.verdict is Verdict.OK:
            self._pending = []
            return
        backoff_us = self._random.randrange(20 * US_PER_MS, 300 * US_PER_MS)
        if operation.verdict is Verdict.UNKNOWN and self._random.random() < self._profile.id_sender_death_share:
            # Another process takes over: it sends the same messages, those alone that can be known again.
            self._begin_life()
            self._pending = [message for message in sent if message[0] is not None]
            if self._pending:
                self._scheduler.after(backoff_us, self._send_pending)
        else:
            self._scheduler.after(backoff_us, lambda: self._retry(request, sent))

    def _retry(self, request: ProduceRequest, sent: list[tuple[bytes | None, bytes]]) -> None:
        if sent is self._pending:
            self._try(request, sent)

    def _on_confirmed(self, sent: Sequence[tuple[bytes | None, bytes]], operation: Operation) -> None:
        produced = operation.answer
        if not isinstance(produced, ProduceReply):
            raise TypeError(produced)
        firsts = dict(produced.duplicates)
        confirmed = self._ledger.confirmed_with_ids.setdefault(self._partition, [])
        for position, (name, value) in enumerate(sent):
            if position not in produced.conflicts:
                confirmed.append((name, value, firsts.get(position, produced.base_offset + position)))
