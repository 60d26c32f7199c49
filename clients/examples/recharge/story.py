"""What happens in one run, in order.

Trade, delivery and settlement work at the same time. On the way the leader of the busiest partition is killed and comes
back, and for a while a bad build of settlement acks without booking. Afterwards a rewind takes settlement back to where
it stood before the bad build, and the books absorb what they know and take what they lack.

Marks on the way are counts and not times, so that the story is the same on a fast machine and on a slow one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, final

import trio

from clients.examples.recharge.balance import Balance, money, strike_balance
from clients.examples.recharge.delivery import Carriers, Delivery
from clients.examples.recharge.settlement import Build, Settlement
from clients.examples.recharge.trade import Trade

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from clients.examples.recharge.ledger import Ledger
    from clients.examples.recharge.nodes import NodeControl
    from clients.examples.recharge.orders import Order
    from clients.examples.recharge.progress import Progress
    from logbroker.wire.requests import PartitionDescription, QueueDescription, Rewound
    from logbroker_client import Client

    Connect = Callable[[str], AbstractAsyncContextManager[Client]]
    """Gives a client of the cluster under a name of its own."""

GROUP = "default"

# Parts of all orders, in percent.
_KILL_AT = 20
_SENT_BEFORE_KILL = 25
_BAD_BUILD_AT = 50
_SENT_BEFORE_BAD_BUILD = 60
_BAD_BUILD_TAKES = 15

_RETRY_S = 0.2
_USUAL_RATE, _USUAL_S = 1_000.0, 20.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoryOptions:
    prefix: str = "recharge"
    """Names of queues begin with it."""
    partition_count: int = 3
    rate: float | None = None
    """Orders a second, at most; 0 is as fast as it goes, None a pace that can be watched, but for 20 s at most."""
    hide_s: float = 10.0
    """After this, what a consumer left unsettled is delivered again."""
    away_s: float = 2.0
    """The killed node stays away at least this long, so that there is a time without it."""
    patience_s: float = 60.0
    """When nothing moves for this long something is lost, and the run ends. More than `hide_s`."""

    @property
    def orders_queue(self) -> str:
        return f"{self.prefix}-orders"

    @property
    def receipts_queue(self) -> str:
        return f"{self.prefix}-receipts"


@final
@dataclass(frozen=True, slots=True)
class Kill:
    """The killed leader, and how long it was missed. `back_s` is from its restart until it was ready."""

    node: int
    partition: int
    confirm_s: float
    back_s: float


@final
@dataclass(frozen=True, slots=True)
class Replay:
    """The rewind: where to, and how many messages came again. `absorbed` of them were in the books already."""

    to: datetime
    moved: int
    absorbed: int


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """`stalled` says what was waited for in vain; empty when nothing was."""

    before: Balance
    after: Balance
    kill: Kill | None
    replay: Replay | None
    stalled: str

    @property
    def is_good(self) -> bool:
        return self.after.is_balanced and not self.stalled


@final
class Story:
    def __init__(
        self,
        connect: Connect,
        orders: Sequence[Order],
        ledger: Ledger,
        progress: Progress,
        options: StoryOptions,
        *,
        control: NodeControl | None,
        tell: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._orders = orders
        self._ledger = ledger
        self._progress = progress
        self._options = options
        self._control = control
        self._tell = tell
        usual_rate = max(_USUAL_RATE, len(orders) / _USUAL_S)
        self._trade = Trade(orders, progress, rate=usual_rate if options.rate is None else options.rate)
        self._carriers = Carriers()
        # Small enough that the marks on the way are met within some percent.
        max_batch_count = min(500, max(10, len(orders) // 40))
        self._settlement = Settlement(ledger, progress, max_batch_count=max_batch_count)
        self._waits_for = ""
        self._stalled = ""
        self._kill: Kill | None = None
        self._replay: Replay | None = None
        self._before: Balance | None = None

    async def play(self) -> Outcome:
        """Play it to its end, or until nothing moves any more.

        Raises:
            AlreadyExistsError: a queue of an earlier run is there.
            NodeControlError: the node could not be killed or brought back.
        """
        async with self._connect("recharge-operator") as operator:
            for queue in (self._options.orders_queue, self._options.receipts_queue):
                await operator.create_queue(
                    queue,
                    partitions=self._options.partition_count,
                    retention=timedelta(days=1),
                    hide=self._options.hide_s,
                )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                stand = await self._work(operator)
                await self._recover(operator, stand)
                nursery.cancel_scope.cancel()
        after = self._strike_balance()
        return Outcome(self._before or after, after, self._kill, self._replay, self._stalled)

    async def _watch(self, run: trio.CancelScope) -> None:
        """End the run when nothing has moved for long: whatever is lost by then stays lost, and the books show it."""
        self._progress.note()
        while True:
            quiet_s = trio.current_time() - self._progress.changed_at
            if quiet_s >= self._options.patience_s:
                self._stalled = f"nothing moved for {quiet_s:.0f} s while waiting for {self._waits_for}"
                run.cancel()
                return
            await trio.sleep(self._options.patience_s - quiet_s)

    # The working day.

    async def _work(self, operator: Client) -> datetime:
        """Have all orders traded, delivered and settled, and give where settlement stood before the bad build."""
        # Trade waits where the story would be over before its next turn; at the default rate it does not have to.
        self._trade.allow(self._part(_SENT_BEFORE_BAD_BUILD if self._control is None else _SENT_BEFORE_KILL))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_trade)
            nursery.start_soon(self._run_delivery)
            if self._control is not None:
                nursery.start_soon(self._lose_a_node, operator, self._control)
            return await self._run_settlement(operator)

    def _part(self, percent: int) -> int:
        return max(1, len(self._orders) * percent // 100)

    async def _run_trade(self) -> None:
        async with self._connect("recharge-trade") as client:
            await self._trade.run(client, self._options.orders_queue)

    async def _run_delivery(self) -> None:
        delivery = Delivery(self._carriers, self._progress)
        count = len(self._orders)
        async with self._connect("recharge-delivery") as client:
            await delivery.run(
                client,
                self._options.orders_queue,
                self._options.receipts_queue,
                is_enough=lambda: self._progress.delivered >= count,
            )

    async def _run_settlement(self, operator: Client) -> datetime:
        progress, queue, count = self._progress, self._options.receipts_queue, len(self._orders)
        async with self._connect("recharge-settlement") as client:
            self._waits_for = "settlement to book the first half"
            half = self._part(_BAD_BUILD_AT)
            await self._settlement.run(client, queue, Build.GOOD, is_enough=lambda: progress.settled >= half)
            stand = await self._settlement_stand(operator)
            self._tell(f"settlement build {Build.BAD} is deployed; it acks without booking, and nobody notices")
            self._trade.allow(count)
            self._waits_for = "the bad build to take its share"
            enough_lost = self._part(_BAD_BUILD_TAKES)
            await self._settlement.run(client, queue, Build.BAD, is_enough=lambda: progress.unbooked >= enough_lost)
            self._tell(
                f"settlement is back at build {Build.GOOD}; {progress.unbooked:,} receipts are acked, not booked"
            )
            self._waits_for = "every order to be settled"
            await self._settlement.run(client, queue, Build.GOOD, is_enough=lambda: progress.settled >= count)
        return stand

    async def _settlement_stand(self, operator: Client) -> datetime:
        """Where settlement stands: on the log's clock, the time of the oldest receipt that is not acked.

        Whatever a build that starts after this call acks was appended then or later.
        """
        found = await self._describe(operator, self._options.receipts_queue)
        times = [
            counts.oldest_ms or partition.append_ms
            for partition in found.partitions
            for counts in partition.groups
            if counts.name == GROUP
        ]
        ms = min(time for time in times if time)
        return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)

    async def _describe(self, operator: Client, queue: str) -> QueueDescription:
        """Ask until every partition has a leader to speak for it."""
        while True:
            found = await operator.describe_queue(queue)
            if all(partition.leader and partition.groups and not partition.problem for partition in found.partitions):
                return found
            await trio.sleep(_RETRY_S)

    # The bad moment.

    async def _lose_a_node(self, operator: Client, control: NodeControl) -> None:
        progress, queue = self._progress, self._options.orders_queue
        kill_at = self._part(_KILL_AT)
        await progress.wait_for(lambda: progress.confirmed >= kill_at)
        busiest = max((await self._describe(operator, queue)).partitions, key=_size)
        node, partition = busiest.leader, busiest.partition
        self._tell(f"node {node} leads {queue}/{partition}, the busiest partition: kill -KILL")
        killed_at = trio.current_time()
        await control.kill(node)
        self._trade.allow(self._part(_SENT_BEFORE_BAD_BUILD))

        def is_confirmed() -> bool:
            # Only what was sent after the kill: an answer from before it may still be on its way.
            last = progress.last_confirms.get(partition)
            return last is not None and last.sent_at > killed_at

        await progress.wait_for(is_confirmed)
        confirm_s = progress.last_confirms[partition].confirmed_at - killed_at
        self._tell(
            f"{queue}/{partition} has a new leader: the next order was confirmed {confirm_s:.2f} s after the kill"
        )
        await trio.sleep_until(killed_at + self._options.away_s)
        restarted_at = trio.current_time()
        await control.restart(node)
        back_s = trio.current_time() - restarted_at
        self._tell(f"node {node} is back, {back_s:.1f} s after its restart")
        self._kill = Kill(node, partition, confirm_s, back_s)

    # The evening.

    async def _recover(self, operator: Client, stand: datetime) -> None:
        progress, queue, count = self._progress, self._options.receipts_queue, len(self._orders)
        self._before = self._strike_balance()
        short = money(self._before.paid_cents - self._before.booked_cents)
        self._tell(f"the books lack {len(self._before.missing):,} orders, {short}")
        when = stand.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._tell(f"rewind of {queue} to {when}, where settlement stood before the bad build")
        self._waits_for = "the rewind"
        rewound = await operator.rewind(queue, to=stand, group=GROUP)
        moved, absorbed_before = _moved_count(rewound), progress.absorbed
        self._tell(f"{moved:,} messages come again")
        self._settlement.expect_replay()
        self._waits_for = "settlement to book what is missing"

        def is_enough() -> bool:
            return progress.booked >= count and progress.replayed >= moved

        async with self._connect("recharge-settlement") as client:
            await self._settlement.run(client, queue, Build.GOOD, is_enough=is_enough)
        self._replay = Replay(stand, moved, progress.absorbed - absorbed_before)

    def _strike_balance(self) -> Balance:
        return strike_balance(self._orders, self._ledger.bookings())


def _size(partition: PartitionDescription) -> int:
    return partition.log_end - partition.log_start


def _moved_count(rewound: Rewound) -> int:
    return sum(partition.moved_count for partition in rewound.partitions)
