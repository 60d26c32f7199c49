"""Simulated clients: producers that retry, consumers that misbehave, an operator that rewinds.

Each client is a small state machine on the scheduler. They do what real clients do to a broker (give up,
die, come late, ask twice, use handles of yesterday) and hand every answer to the history. They must not
look into the cluster; all they know is what they were told.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Protocol, final

from logbroker.errors import InvalidArgumentError, NotLeaderError
from logbroker.ids import DEFAULT_GROUP, GroupId, GroupName, LeaseId, NodeId, Offset
from logbroker.node.requests import (
    AckRequest,
    CancelRequest,
    CountTarget,
    CreateGroupRequest,
    DeadReply,
    DeadRequest,
    DeleteGroupRequest,
    EarliestTarget,
    ExtendRequest,
    LatestTarget,
    MoveRequest,
    NackRequest,
    OffsetTarget,
    PauseRequest,
    ProduceReply,
    ProduceRequest,
    PurgeRequest,
    ReceiveReply,
    ReceiveRequest,
    RejectRequest,
    ReleaseRequest,
    ResumeRequest,
    ReviveRequest,
    RewindRequest,
    StateReply,
    StateRequest,
    TimeTarget,
)
from logbroker.record.batch import DEFAULT_LIMITS, HEADER_BYTES, Codec, Record, encode_batch, encode_values
from logbroker.record.checksum import crc32c
from logbroker.record.compression import compress
from logbroker.testing.history import Verdict
from logbroker.testing.id_senders import IdPool, IdSender
from logbroker.testing.scheduler import US_PER_MS, US_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from logbroker.node.requests import Request, Target
    from logbroker.testing.history import Operation
    from logbroker.testing.scheduler import Scheduler

_MAX_IN_FLIGHT = 5
_REMEMBERED_LEASES = 30
_WATCH_US = 200 * US_PER_MS
_VANDALISM_US = 3 * US_PER_S
_LONGEST_PAUSE_MS = 6_000
_LAST_ROUNDS = 4
_BATCH_CRC_END = 21

VANDAL = "vandal "
"""How the names of clients begin whose batches may never be taken."""


@final
@dataclass(frozen=True, slots=True)
class WorkloadProfile:
    """How busy and how badly behaved the clients of one run are. Rates and shares are drawn per seed."""

    producers: int = 2
    batches_per_second: float = 4.0
    max_records: int = 6
    max_in_flight: int = 3
    large_value_share: float = 0.02
    producer_death_share: float = 0.01
    delay_share: float = 0.0
    """Of batches, those that are to be delivered later: half of them after a while, half of them at a time."""
    max_delay_ms: int = 8_000
    cancel_share: float = 0.4
    """Of those, the ones of which something is cancelled, sometimes too late."""
    consumers: int = 4
    max_hide_ms: int = 4_000
    die_share: float = 0.03
    nack_share: float = 0.08
    reject_share: float = 0.2
    """Of those nacks."""
    policy_share: float = 0.5
    """Of the other nacks, those that leave the delay to the queue."""
    extend_share: float = 0.08
    late_share: float = 0.05
    release_share: float = 0.03
    stale_share: float = 0.05
    double_share: float = 0.05
    partial_share: float = 0.15
    operator_actions_per_second: float = 0.4
    revive_share: float = 0.25
    """Of those actions; half of them look at the dead and revive what they see."""
    pause_share: float = 0.25
    """Of those actions: pauses, with and without an end, their ends, and purges."""
    extra_groups: int = 1
    tidies_groups: bool = False
    """At the end nobody leaves a consumer group behind that he made for himself."""
    key_count: int = 0
    """Of all producers of a partition; then every eighth message has none. 0: no message has one."""
    move_share: float = 0.1
    """Of those actions, where there is another partition: messages are moved there."""
    id_senders: int = 2
    """Clients whose messages have ids; every other one numbers its batches too."""
    id_batches_per_second: float = 1.0
    id_sender_death_share: float = 0.5
    """Of their attempts without an answer."""
    has_vandal: bool = True
    has_watcher: bool = True


class Cluster(Protocol):
    """What clients see of a cluster."""

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def client_nodes(self) -> tuple[NodeId, ...]:
        """Nodes that clients may try."""
        ...

    def call(
        self,
        client: str,
        node: NodeId,
        partition: GroupId,
        request: Request,
        *,
        timeout_us: int,
        done: Callable[[Operation], None],
    ) -> None:
        """Make one attempt; `done` is called exactly once, at the latest after `timeout_us`."""
        ...

    def wall_ms(self) -> int:
        """True wall time."""
        ...


@final
class Ledger:
    """What became of each value that a producer sent, as the producers know it."""

    def __init__(self) -> None:
        self.sent: set[bytes] = set()
        self.confirmed: dict[GroupId, dict[bytes, int]] = {}
        """Offset of each confirmed value, per partition, in the order of confirmation."""
        self.refused: set[bytes] = set()
        """Every attempt was answered by a refusal, so these may never appear."""
        self.confirmed_bytes = 0
        self.delays: dict[bytes, list[tuple[int, int]]] = {}
        """What was asked for values to be delivered later, each way in which it was: delay_ms, deliver_at_ms."""
        self.confirmed_with_ids: dict[GroupId, list[tuple[bytes | None, bytes, int]]] = {}
        """Id, value and the offset that was told, of each message of those who send ids; None has no id."""


@final
class Route:
    """One client's way to the leader of one partition: one attempt a call, better aimed each time."""

    def __init__(self, cluster: Cluster, client: str, partition: GroupId, random: Random) -> None:
        self._cluster = cluster
        self._client = client
        self._partition = partition
        self._random = random
        self._node = random.choice(cluster.client_nodes)

    def call(self, request: Request, *, timeout_us: int, done: Callable[[Operation], None]) -> None:
        def aimed(operation: Operation) -> None:
            self._aim(operation)
            done(operation)

        self._cluster.call(self._client, self._node, self._partition, request, timeout_us=timeout_us, done=aimed)

    def _aim(self, operation: Operation) -> None:
        if operation.verdict is Verdict.OK:
            return
        error = operation.error
        if isinstance(error, NotLeaderError) and error.leader in self._cluster.client_nodes:
            self._node = error.leader
        elif operation.verdict is Verdict.UNKNOWN or isinstance(error, NotLeaderError):
            self._node = self._random.choice(self._cluster.client_nodes)


@final
class _PendingBatch:
    """One batch of a producer, from its first attempt to its end."""

    __slots__ = ("data", "delay", "maybe_done", "number", "open_attempts", "values")

    def __init__(self, number: int, values: list[bytes], data: bytes, delay: tuple[int, int] = (0, 0)) -> None:
        self.number = number
        self.delay = delay
        self.values = values
        self.data = data
        self.open_attempts = 0
        # An attempt ended without an answer, so it may be in the log whatever is said later.
        self.maybe_done = False


@final
class Producer:
    """Sends unique values in idempotent batches and retries each until it is confirmed."""

    def __init__(
        self, cluster: Cluster, ledger: Ledger, partition: GroupId, name: str, profile: WorkloadProfile
    ) -> None:
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._ledger = ledger
        self._partition = partition
        self._name = name
        self._profile = profile
        self._random = self._scheduler.random(f"producer {name}")
        self._keys = self._scheduler.random(f"keys {name}")
        self._delays = self._scheduler.random(f"delays {name}")
        self._route = Route(cluster, name, partition, self._random)
        self._life = 0
        self._stopped = False
        self._waiting: deque[_PendingBatch] = deque()
        self._begin_life()

    def start(self) -> None:
        self._scheduler.after(self._random.randrange(US_PER_S), self._next_batch)

    def stop(self) -> None:
        """Send nothing new; what is in flight is retried until it is answered."""
        self._stopped = True

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def _begin_life(self) -> None:
        self._life += 1
        self._producer_id = self._random.getrandbits(62) + 1
        self._next_sequence = 0
        self._next_batch_number = 0
        for batch in self._waiting:
            if not batch.maybe_done and not batch.open_attempts:
                self._ledger.refused.update(batch.values)
        # The others of the life before stay as they are known: unknown for ever.
        self._waiting.clear()

    def _next_batch(self) -> None:
        if self._stopped:
            return
        mean_us = US_PER_S / self._profile.batches_per_second
        self._scheduler.after(int(self._random.expovariate(1) * mean_us) + 1, self._next_batch)
        if self._random.random() < self._profile.producer_death_share:
            self._begin_life()
        # Nothing is sent that would push an unanswered batch out of the five that a broker remembers.
        most = min(self._profile.max_in_flight, _MAX_IN_FLIGHT)
        if not self._waiting or self._next_batch_number - self._waiting[0].number < most:
            batch = self._make_batch(self._random.randint(1, self._profile.max_records))
            self._waiting.append(batch)
            self._send(batch, self._life)

    def _make_batch(self, count: int) -> _PendingBatch:
        first = self._next_sequence
        values = [self._make_value(first + position) for position in range(count)]
        self._next_sequence += count
        self._ledger.sent.update(values)
        data = self._encode(values, first)
        self._next_batch_number += 1
        batch = _PendingBatch(self._next_batch_number - 1, values, data, self._choose_delay())
        if any(batch.delay):
            self._ledger.delays |= {value: [batch.delay] for value in values}
        return batch

    def _choose_delay(self) -> tuple[int, int]:
        """Of a new batch: delay_ms and deliver_at_ms, of which one at least is 0."""
        if not self._profile.delay_share or self._delays.random() >= self._profile.delay_share:
            return 0, 0
        delay_ms = self._delays.choice((1, 100, self._delays.randrange(1, self._profile.max_delay_ms)))
        return (delay_ms, 0) if self._delays.random() < 0.5 else (0, self._cluster.wall_ms() + delay_ms)

    def _encode(self, values: list[bytes], base_sequence: int) -> bytes:
        timestamp_ms = self._cluster.wall_ms()
        if not self._profile.key_count:
            return encode_values(
                values,
                timestamp_ms=timestamp_ms,
                producer_id=self._producer_id,
                producer_epoch=0,
                base_sequence=base_sequence,
            )
        records = [Record(value, self._make_key(), timestamp_ms=timestamp_ms) for value in values]
        return encode_batch(records, producer_id=self._producer_id, producer_epoch=0, base_sequence=base_sequence)

    def _make_key(self) -> bytes | None:
        random = self._keys
        return None if random.random() < 0.125 else b"key %d" % random.randrange(self._profile.key_count)

    def _make_value(self, sequence: int) -> bytes:
        name = b"%s/%d/%d " % (self._name.encode(), self._life, sequence)
        draw = self._random.random()
        if draw < self._profile.large_value_share:
            return name + self._random.randbytes(self._random.randrange(2_000, 12_000))
        return name + b"x" * self._random.randrange(60)

    def _send(self, batch: _PendingBatch, life: int) -> None:
        if life != self._life:
            return
        batch.open_attempts += 1
        self._route.call(
            ProduceRequest(batch.data, *batch.delay),
            timeout_us=self._random.randrange(1 * US_PER_S, 4 * US_PER_S),
            done=lambda operation: self._on_answer(batch, life, operation),
        )

    def _on_answer(self, batch: _PendingBatch, life: int, operation: Operation) -> None:
        batch.open_attempts -= 1
        if operation.verdict is Verdict.OK:
            self._on_confirmed(batch, operation)
            return
        if operation.verdict is Verdict.UNKNOWN:
            batch.maybe_done = True
        if life != self._life:
            return
        if any(batch.delay) and isinstance(operation.error, InvalidArgumentError):
            # Log time lies so far behind that retention would take it before.
            batch.delay = (0, 0)
            for value in batch.values:
                self._ledger.delays[value].append(batch.delay)
        backoff_us = self._random.randrange(20 * US_PER_MS, 300 * US_PER_MS)
        self._scheduler.after(backoff_us, lambda: self._send(batch, life))

    def _cancel_later(self, produced: ProduceReply) -> None:
        start = produced.base_offset + self._delays.randrange(produced.count)
        end = self._delays.randrange(start, produced.base_offset + produced.count) + 1
        request = CancelRequest(((start, end),))
        wait_ms = max(0, produced.due_ms - produced.append_ms)
        self._scheduler.after(
            int(self._delays.random() ** 2 * 1.2 * wait_ms * US_PER_MS), lambda: self._cancel(request, attempts=8)
        )

    def _cancel(self, request: CancelRequest, attempts: int) -> None:
        def answered(operation: Operation) -> None:
            if operation.verdict is not Verdict.OK and attempts > 1:
                backoff_us = self._delays.randrange(20 * US_PER_MS, 300 * US_PER_MS)
                self._scheduler.after(backoff_us, lambda: self._cancel(request, attempts - 1))

        self._route.call(request, timeout_us=US_PER_S, done=answered)

    def _on_confirmed(self, batch: _PendingBatch, operation: Operation) -> None:
        produced = operation.answer
        if not isinstance(produced, ProduceReply):
            raise TypeError(produced)
        confirmed = self._ledger.confirmed.setdefault(self._partition, {})
        for position, value in enumerate(batch.values):
            confirmed[value] = produced.base_offset + position
            self._ledger.confirmed_bytes += len(value)
        if produced.due_ms and self._delays.random() < self._profile.cancel_share:
            self._cancel_later(produced)
        if batch in self._waiting:
            self._waiting.remove(batch)


@final
@dataclass(slots=True)
class _Held:
    """A lease that a consumer believes to hold."""

    lease: LeaseId
    ranges: tuple[tuple[int, int], ...]
    hide_us: int
    extended_count: int = 0


@final
class Consumer:
    """Receives from one consumer group and settles what it gets, well or badly."""

    def __init__(
        self, cluster: Cluster, partition: GroupId, group: GroupName, name: str, profile: WorkloadProfile
    ) -> None:
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._partition = partition
        self.group = group
        self._name = name
        self._profile = profile
        self._random = self._scheduler.random(f"consumer {name}")
        self._failures = self._scheduler.random(f"failures {name}")
        self._route = Route(cluster, name, partition, self._random)
        self._old: deque[_Held] = deque(maxlen=_REMEMBERED_LEASES)
        self._life = 0
        self._well_behaved = False
        self._stopped = False
        self._begin_life()

    def start(self) -> None:
        life = self._life
        self._scheduler.after(self._random.randrange(US_PER_S), lambda: self._receive(life))

    def behave(self) -> None:
        """From now on settle everything at once: the end of a run, when all must be drained."""
        self._well_behaved = True

    def stop(self) -> None:
        self._stopped = True

    def _begin_life(self) -> None:
        self._life += 1
        self._session = self._random.getrandbits(62) + 1
        self._request_id = 0

    def _receive(self, life: int) -> None:
        if self._stopped or life != self._life:
            return
        self._request_id += 1
        random = self._random
        request = ReceiveRequest(
            group=self.group,
            max_count=100 if self._well_behaved else random.choice((1, 3, 10, 30)),
            max_bytes=random.choice((2_000, 100_000, 1_000_000)),
            hide_ms=random.randrange(1_000, self._profile.max_hide_ms),
            wait_ms=random.choice((0, 500, 2_000)),
            consumer=self._name,
            session=self._session,
            request_id=self._request_id,
        )
        self._try_receive(request, life)

    def _try_receive(self, request: ReceiveRequest, life: int) -> None:
        if life != self._life:
            return
        self._route.call(
            request,
            timeout_us=(request.wait_ms + self._random.randrange(700, 2_000)) * US_PER_MS,
            done=lambda operation: self._on_received(request, life, operation),
        )

    def _on_received(self, request: ReceiveRequest, life: int, operation: Operation) -> None:
        if life != self._life:
            return
        backoff_us = self._random.randrange(20 * US_PER_MS, 250 * US_PER_MS)
        if operation.verdict is Verdict.OK:
            leased = operation.answer
            if not isinstance(leased, ReceiveReply):
                raise TypeError(leased)
            if leased.parts:
                self._plan(leased)
            self._scheduler.after(backoff_us, lambda: self._receive(life))
        elif self._random.random() < 0.7:
            # The same request again: if it was granted, the same lease must come back.
            self._scheduler.after(backoff_us, lambda: self._try_receive(request, life))
        else:
            self._scheduler.after(backoff_us, lambda: self._receive(life))

    def _plan(self, leased: ReceiveReply) -> None:
        ranges = tuple((start, end) for part in leased.parts for start, end, _ in part.ranges)
        held = _Held(leased.lease, ranges, leased.hide_left_ms * US_PER_MS)
        self._old.append(held)
        work_us = int(self._random.expovariate(1) * 80 * US_PER_MS)
        profile, draw = self._profile, self._random.random()
        if self._well_behaved:
            self._settle_later(held, work_us)
        elif draw < profile.die_share:
            # The consumer is gone with its lease; a new one takes its place.
            self._begin_life()
            life = self._life
            self._scheduler.after(self._random.randrange(2 * US_PER_S), lambda: self._receive(life))
        elif draw < profile.die_share + profile.late_share:
            self._settle_later(held, held.hide_us + self._random.randrange(500 * US_PER_MS))
        elif draw < profile.die_share + profile.late_share + profile.extend_share:
            self._scheduler.after(held.hide_us // 2, lambda: self._extend(held))
        elif draw < profile.die_share + profile.late_share + profile.extend_share + profile.nack_share:
            self._scheduler.after(work_us, lambda: self._nack(held, held.ranges))
        elif draw > 1 - profile.release_share:
            self._scheduler.after(work_us // 8, lambda: self._release(held))
        else:
            self._settle_later(held, work_us)
        if self._random.random() < profile.stale_share and not self._well_behaved:
            old = self._random.choice(self._old)
            self._scheduler.after(work_us, lambda: self._ack(((old.lease, old.ranges),)))

    def _settle_later(self, held: _Held, delay_us: int) -> None:
        self._scheduler.after(delay_us, lambda: self._settle(held))

    def _settle(self, held: _Held) -> None:
        ranges = held.ranges
        if self._well_behaved or self._random.random() >= self._profile.partial_share:
            self._ack(((held.lease, ranges),))
        else:
            kept, left = self._split(ranges)
            self._ack(((held.lease, kept),))
            if left:
                self._scheduler.after(self._random.randrange(500 * US_PER_MS), lambda: self._nack(held, left))
        if self._random.random() < self._profile.double_share:
            self._scheduler.after(self._random.randrange(US_PER_S), lambda: self._ack(((held.lease, ranges),)))

    def _split(self, ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Cut the ranges at a random message: what comes before, and from there on."""
        start, end = self._random.choice(ranges)
        cut = self._random.randrange(start, end) + 1
        before = tuple((low, min(high, cut)) for low, high in ranges if low < cut)
        after = tuple((max(low, cut), high) for low, high in ranges if high > cut)
        return before, after

    def _ack(self, items: tuple[tuple[LeaseId, tuple[tuple[int, int], ...]], ...], attempts: int = 4) -> None:
        def answered(operation: Operation) -> None:
            if operation.verdict is not Verdict.OK and attempts > 1:
                self._retry_later(lambda: self._ack(items, attempts - 1))

        self._route.call(AckRequest(self.group, items), timeout_us=US_PER_S, done=answered)

    def _nack(self, held: _Held, ranges: tuple[tuple[int, int], ...]) -> None:
        delay_ms: int | None = self._random.choice((0, 0, self._random.randrange(100, 3_000)))
        items = ((held.lease, ranges),)
        request: Request
        if self._failures.random() < self._profile.reject_share:
            request = RejectRequest(self.group, items, reason=f"simulated {held.lease}")
        else:
            if self._failures.random() < self._profile.policy_share:
                delay_ms = None
            request = NackRequest(self.group, items, delay_ms=delay_ms, reason="simulated")
        self._route.call(request, timeout_us=US_PER_S, done=lambda _: None)

    def _release(self, held: _Held) -> None:
        """What a node asks for itself when the connection was gone before the lease could be told."""
        request = ReleaseRequest(self.group, held.lease)
        self._route.call(request, timeout_us=US_PER_S, done=lambda _: None)

    def _extend(self, held: _Held) -> None:
        hide_ms = self._random.randrange(1_000, self._profile.max_hide_ms)
        request = ExtendRequest(self.group, ((held.lease, held.ranges),), hide_ms=hide_ms)
        held.extended_count += 1

        def answered(operation: Operation) -> None:
            del operation
            if held.extended_count < 3 and self._random.random() < 0.3 and not self._well_behaved:
                self._scheduler.after(hide_ms * US_PER_MS // 2, lambda: self._extend(held))
            else:
                self._settle_later(held, self._random.randrange(hide_ms) * US_PER_MS)

        self._route.call(request, timeout_us=US_PER_S, done=answered)

    def _retry_later(self, action: Callable[[], None]) -> None:
        self._scheduler.after(self._random.randrange(20 * US_PER_MS, 300 * US_PER_MS), action)


@final
@dataclass(slots=True)
class _Order:
    """One thing the operator wants done, asked again until it is answered for good."""

    request: Request
    attempts_left: int = 12
    then: list[Callable[[], None]] = field(default_factory=list)


@final
class Operator:
    """Rewinds, skips, makes and deletes consumer groups, and asks how things stand."""

    def __init__(
        self,
        cluster: Cluster,
        partition: GroupId,
        name: str,
        profile: WorkloadProfile,
        groups: list[GroupName],
        others: Sequence[GroupId],
    ) -> None:
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._profile = profile
        self._random = self._scheduler.random(f"operator {name}")
        self._failures = self._scheduler.random(f"failures {name}")
        self._pauses = self._scheduler.random(f"pauses {name}")
        self._delays = self._scheduler.random(f"delays {name}")
        self._moves = self._scheduler.random(f"moves {name}")
        self._others = others
        self._seen_dead: list[tuple[GroupName, tuple[tuple[int, int], ...]]] = []
        self._route = Route(cluster, name, partition, self._random)
        self._started_ms = cluster.wall_ms()
        self._groups = groups
        self._temporary: list[GroupName] = []
        self._next_rewind_id = 1
        self._next_group = 1
        self._pause_count = 0
        self._purge_id = 0
        self._stopped = False
        self._busy = False
        self._last_end = 0

    def start(self) -> None:
        for group in self._groups:
            if group != DEFAULT_GROUP:
                self._ask(_Order(CreateGroupRequest(group, EarliestTarget()), attempts_left=1_000))
        self._later()

    def stop(self) -> None:
        """Nothing new, and no group stays paused."""
        self._stopped = True
        self._tidy(_LAST_ROUNDS)

    def _tidy(self, times: int) -> None:
        """More than once: what was asked before may be on its way still."""
        for group in self._groups:
            self._ask(_Order(ResumeRequest(group), attempts_left=1_000))
        for number in range(1, self._next_group) if self._profile.tidies_groups else ():
            self._ask(_Order(DeleteGroupRequest(_temporary_name(number)), attempts_left=1_000))
        if times > 1:
            self._scheduler.after(2 * US_PER_S, lambda: self._tidy(times - 1))

    def _later(self) -> None:
        if self._profile.operator_actions_per_second and not self._stopped:
            mean_us = US_PER_S / self._profile.operator_actions_per_second
            self._scheduler.after(int(self._random.expovariate(1) * mean_us) + 1, self._act)

    def _act(self) -> None:
        if not self._busy and not self._stopped:
            self._busy = True
            if self._profile.delay_share and self._delays.random() < 0.5:
                self._skip_and_regret()
            else:
                self._ask(_Order(self._choose(), then=[self._free]))
        self._later()

    def _free(self) -> None:
        self._busy = False

    def _choose(self) -> Request:
        draw = self._random.random()
        if self._others and self._moves.random() < self._profile.move_share:
            return self._move_away()
        if self._failures.random() < self._profile.revive_share:
            return self._choose_of_dead()
        if self._pauses.random() < self._profile.pause_share:
            return self._choose_of_pauses()
        if draw < 0.4:
            return self._move(forward=False)
        if draw < 0.55:
            return self._move(forward=True)
        if draw < 0.65:
            name = _temporary_name(self._next_group)
            self._next_group += 1
            self._temporary.append(name)
            return CreateGroupRequest(name, self._target())
        if draw < 0.72 and self._temporary:
            return DeleteGroupRequest(self._temporary.pop(self._random.randrange(len(self._temporary))))
        return StateRequest()

    def _skip_and_regret(self) -> None:
        """Skip what is there, delayed messages too, and come back to it."""
        group, back = self._delays.choice(self._groups), CountTarget(self._delays.randrange(5, 40))
        regret = _Order(self._moved(group, back, forward=False), then=[self._free])
        skip = self._moved(group, LatestTarget(), forward=True)
        self._ask(_Order(skip, then=[lambda: self._ask(regret)]))

    def _choose_of_dead(self) -> Request:
        """Look at the dead, or revive those that were seen, or all that there may be."""
        group = self._failures.choice(self._groups)
        draw = self._failures.random()
        if draw < 0.5:
            start = self._failures.randrange(self._last_end + 1) if draw < 0.1 else 0
            return DeadRequest(group, start, max_count=self._failures.choice((1, 3, 100)))
        if draw < 0.8 and self._seen_dead:
            return ReviveRequest(*self._seen_dead.pop())
        return ReviveRequest(group, ((0, max(1, self._last_end)),))

    def _choose_of_pauses(self) -> Request:
        random = self._pauses
        group = random.choice(self._groups)
        draw = random.random()
        if draw < 0.4:
            self._pause_count += 1
            duration_ms = random.choice((0, random.randrange(1_000, _LONGEST_PAUSE_MS)))
            return PauseRequest(group, f"pause {self._pause_count}", duration_ms)
        if draw < 0.6:
            return ResumeRequest(group)
        if draw < 0.8 or not self._purge_id:
            self._purge_id = random.getrandbits(62)
        # Or one that was done already, perhaps in the other group.
        return PurgeRequest(group, self._purge_id)

    def _move_away(self) -> MoveRequest:
        """Some messages to another partition, whatever they are; all that is available of them goes."""
        start = self._moves.randrange(self._last_end + 1)
        end = max(start, min(start + self._moves.choice((1, 5, 40)), self._last_end)) or 1
        group = self._moves.choice(self._groups)
        return MoveRequest(group, ((min(start, end - 1), end),), self._moves.choice(self._others))

    def _move(self, *, forward: bool) -> RewindRequest:
        return self._moved(self._random.choice([*self._groups, *self._temporary]), self._target(), forward=forward)

    def _moved(self, group: GroupName, target: Target, *, forward: bool) -> RewindRequest:
        rewind_id = self._next_rewind_id
        self._next_rewind_id += 1
        return RewindRequest(group, rewind_id, target, forward=forward, clamp=True)

    def _target(self) -> Target:
        random = self._random
        match random.randrange(7):
            case 0:
                return EarliestTarget()
            case 1:
                return LatestTarget()
            case 2:
                return CountTarget(random.randrange(1, 40))
            case 3:
                return OffsetTarget(Offset(random.randrange(self._last_end + 10)))
            case 4:
                return TimeTarget(-random.randrange(1, 20_000))
            case _:
                return TimeTarget(random.randrange(self._started_ms, self._cluster.wall_ms() + 1))

    def _ask(self, order: _Order) -> None:
        self._route.call(
            order.request, timeout_us=2 * US_PER_S, done=lambda operation: self._on_answer(order, operation)
        )

    def _on_answer(self, order: _Order, operation: Operation) -> None:
        order.attempts_left -= 1
        retriable = operation.verdict is Verdict.UNKNOWN or (operation.error is not None and operation.error.retriable)
        is_late = self._stopped and isinstance(order.request, PauseRequest)
        if retriable and order.attempts_left > 0 and not is_late:
            self._scheduler.after(self._random.randrange(50 * US_PER_MS, US_PER_S), lambda: self._ask(order))
            return
        if isinstance(operation.answer, StateReply):
            self._last_end = operation.answer.log_end
        if isinstance(operation.answer, DeadReply) and isinstance(operation.request, DeadRequest):
            ranges = tuple((int(row.start), int(row.end)) for row in operation.answer.rows)
            self._seen_dead += [(operation.request.group, ranges)] if ranges else []
        for action in order.then:
            action()


@final
class Watcher:
    """Asks every node in turn how things stand, also the one that was cut off a moment ago and led until then."""

    def __init__(self, cluster: Cluster, partition: GroupId, name: str) -> None:
        self._cluster = cluster
        self._partition = partition
        self._name = name
        self._random = cluster.scheduler.random(f"watcher {name}")
        self._last = NodeId(0)

    def start(self) -> None:
        self._ask()

    def _ask(self) -> None:
        self._cluster.scheduler.after(int(self._random.expovariate(1) * _WATCH_US) + 1, self._ask)
        # Mostly the one that answered before: it is the last to know that it does not lead any more.
        nodes = self._cluster.client_nodes
        node = self._last if self._last and self._random.random() < 0.7 else self._random.choice(nodes)
        request = StateRequest()
        self._cluster.call(self._name, node, self._partition, request, timeout_us=2 * US_PER_S, done=self._on_answer)

    def _on_answer(self, operation: Operation) -> None:
        if operation.verdict is Verdict.OK:
            self._last = operation.node


@final
class Vandal:
    """Sends batches that no broker may take: damaged, cut, lying, or made to burst."""

    def __init__(self, cluster: Cluster, partition: GroupId, name: str) -> None:
        self._cluster = cluster
        self._name = VANDAL + name
        self._random = cluster.scheduler.random(f"vandal {name}")
        self._route = Route(cluster, self._name, partition, self._random)
        self._stopped = False

    def start(self) -> None:
        self._later()

    def stop(self) -> None:
        self._stopped = True

    def _later(self) -> None:
        self._cluster.scheduler.after(int(self._random.expovariate(1) * _VANDALISM_US) + 1, self._act)

    def _act(self) -> None:
        if self._stopped:
            return
        self._later()
        request = ProduceRequest(self._spoil(encode_values([b"spoilt"] * 20, timestamp_ms=self._cluster.wall_ms())))
        self._route.call(request, timeout_us=US_PER_S, done=lambda _: None)

    def _spoil(self, batch: bytes) -> bytes:
        random = self._random
        match random.randrange(5):
            case 0 | 1:
                at = random.randrange(_BATCH_CRC_END, len(batch))
                return batch[:at] + bytes([batch[at] ^ 1 << random.randrange(8)]) + batch[at + 1 :]
            case 2:
                return batch[: random.randrange(1, len(batch))]
            case 3:
                # One record more than there is.
                return _sealed(batch[: HEADER_BYTES - 4] + (21).to_bytes(4, "big") + batch[HEADER_BYTES:])
            case _:
                attributes = int(Codec.ZSTD).to_bytes(2, "big")
                head = batch[:_BATCH_CRC_END] + attributes + batch[_BATCH_CRC_END + 2 : HEADER_BYTES]
                return _sealed(head + _bomb())


def _temporary_name(number: int) -> GroupName:
    return GroupName(f"extra-{number}")


def _sealed(batch: bytes) -> bytes:
    """The batch with its length and checksum made true."""
    length = (len(batch) - 12).to_bytes(4, "big")
    crc = crc32c(batch[_BATCH_CRC_END:]).to_bytes(4, "big")
    return batch[:8] + length + batch[12 : _BATCH_CRC_END - 4] + crc + batch[_BATCH_CRC_END:]


@cache
def _bomb() -> bytes:
    """A few bytes that inflate to more than any batch may hold."""
    return compress(bytes(2 * DEFAULT_LIMITS.max_uncompressed_bytes))


@final
class Workload:
    """All clients of one partition."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        partition: GroupId,
        profile: WorkloadProfile,
        others: Sequence[GroupId] = (),
    ) -> None:
        self.partition = partition
        self._profile = profile
        self.groups = [DEFAULT_GROUP, *(GroupName(f"group-{number}") for number in range(profile.extra_groups))]
        self.producers = [
            Producer(cluster, ledger, partition, f"p{partition}.{number}", profile)
            for number in range(profile.producers)
        ]
        self.consumers = [
            Consumer(cluster, partition, self.groups[number % len(self.groups)], f"c{partition}.{number}", profile)
            for number in range(profile.consumers)
        ]
        pool = IdPool(partition)
        self.id_senders = [
            IdSender(
                cluster,
                ledger,
                Route(cluster, name, partition, cluster.scheduler.random(f"route {name}")),
                partition,
                name,
                profile,
                pool,
                is_numbered=number % 2 == 0,
            )
            for number, name in enumerate(f"i{partition}.{number}" for number in range(profile.id_senders))
        ]
        self.operator = Operator(cluster, partition, f"o{partition}", profile, self.groups, others)
        self.watcher = Watcher(cluster, partition, f"w{partition}")
        self.vandal = Vandal(cluster, partition, f"{partition}")

    def start(self) -> None:
        self.operator.start()
        if self._profile.has_watcher:
            self.watcher.start()
        if self._profile.has_vandal:
            self.vandal.start()
        for producer in self._senders():
            producer.start()
        for consumer in self.consumers:
            consumer.start()

    def stop_producing(self) -> None:
        """The end of a run: nothing new, nobody misbehaves, what is there is drained."""
        self.operator.stop()
        self.vandal.stop()
        for producer in self._senders():
            producer.stop()
        for consumer in self.consumers:
            consumer.behave()

    @property
    def is_settled(self) -> bool:
        """Every batch of a living producer has been answered for good."""
        return all(producer.is_idle for producer in self._senders())

    def _senders(self) -> list[Producer | IdSender]:
        return [*self.producers, *self.id_senders]
