"""Links between simulated nodes: late, lost, doubled, reordered, cut and closed.

A pair of nodes shares one connection, as in production. Frames are bytes: the sender encodes and the
receiver decodes, so that what is lost or doubled is what the wire would carry. A frame belongs to the
connection it was sent on and dies with it. It must know nothing of what the bytes mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, final

from logbroker.ids import NodeId
from logbroker.testing.scheduler import US_PER_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logbroker.testing.scheduler import Scheduler

_RECONNECT_MIN_US = 20 * US_PER_MS
_RECONNECT_MAX_US = 300 * US_PER_MS
_KEEPALIVE_US = 9_000 * US_PER_MS


@final
@dataclass(frozen=True, slots=True)
class LinkQuality:
    """How one direction of a link treats frames. Rates are shares from 0 to 1."""

    min_delay_us: int = 120
    mean_extra_us: int = 150
    loss_rate: float = 0.0
    duplicate_rate: float = 0.0
    # Share of frames that are held back by up to `reorder_us`, so that later ones overtake them.
    reorder_rate: float = 0.0
    reorder_us: int = 30 * US_PER_MS
    # Frames of one connection never overtake each other, as in TCP.
    in_order: bool = True


@final
class Cut(Enum):
    """What becomes of frames in one direction."""

    OPEN = 0
    """Nothing is cut."""
    LOST = 1
    """Silent black hole."""
    HELD = 2
    """Clogged: frames wait and arrive, late and in order, when the direction opens again."""


class NetworkUser(Protocol):
    """Who is told what the network does; the simulated cluster."""

    def on_frame(self, sender: NodeId, to: NodeId, frame: bytes) -> None: ...

    def on_connected(self, node: NodeId, peer: NodeId) -> None: ...

    def on_disconnected(self, node: NodeId, peer: NodeId) -> None: ...


@final
class _Direction:
    """One direction of the link between two nodes."""

    __slots__ = ("cut", "held", "last_arrival_us", "quality")

    def __init__(self, quality: LinkQuality) -> None:
        self.quality = quality
        self.cut = Cut.OPEN
        self.held: list[bytes] = []
        self.last_arrival_us = 0


@final
class _Pair:
    """The one connection that two nodes share."""

    __slots__ = ("connected", "epoch", "high", "keepalive_pending", "low", "reconnect_pending", "refused")

    def __init__(self, low: NodeId, high: NodeId) -> None:
        self.low = low
        self.high = high
        self.connected = False
        # One up whenever the connection ends; frames carry it, and those of an older one are dropped.
        self.epoch = 0
        self.refused = False
        self.reconnect_pending = False
        self.keepalive_pending = False


@final
@dataclass(frozen=True, slots=True)
class NetworkStatistics:
    sent_count: int
    delivered_count: int
    lost_count: int
    duplicated_count: int
    reordered_count: int
    sent_bytes: int


@final
class Network:
    """All links of a cluster. A node takes part from `attach` until `detach`."""

    def __init__(self, scheduler: Scheduler, nodes: Iterable[NodeId], user: NetworkUser) -> None:
        self._scheduler = scheduler
        self._user = user
        self._random = scheduler.random("network")
        self._attached: set[NodeId] = set()
        self._directions: dict[tuple[NodeId, NodeId], _Direction] = {}
        self._pairs: dict[tuple[NodeId, NodeId], _Pair] = {}
        self._default_quality = LinkQuality()
        self._sent_count = 0
        self._delivered_count = 0
        self._lost_count = 0
        self._duplicated_count = 0
        self._reordered_count = 0
        self._sent_bytes = 0
        ordered = sorted(nodes)
        for position, low in enumerate(ordered):
            for high in ordered[position + 1 :]:
                self._pairs[low, high] = _Pair(low, high)
                self._directions[low, high] = _Direction(self._default_quality)
                self._directions[high, low] = _Direction(self._default_quality)

    # Membership of the network.

    def attach(self, node: NodeId) -> None:
        """The node's process runs; connections to it are made after a short while."""
        for pair in self._pairs_of(node):
            # Left by a silent end: the first packet of the new process resets it.
            self.close(pair.low, pair.high)
        self._attached.add(node)
        for pair in self._pairs_of(node):
            self._reconnect_later(pair)

    def detach(self, node: NodeId, *, silently: bool = False) -> None:
        """The node's process is gone.

        Its peers see their connections closed, as after a kill, or, `silently`, nothing at all until
        the keepalive gives up, as after a power cut.
        """
        self._attached.discard(node)
        for pair in self._pairs_of(node):
            if not pair.connected:
                continue
            if silently:
                self._close_by_keepalive_later(pair)
                pair.epoch += 1
            else:
                self.close(pair.low, pair.high)

    # Faults.

    def set_quality(self, quality: LinkQuality) -> None:
        """Give every direction of every link this quality."""
        for direction in self._directions.values():
            direction.quality = quality

    def set_link_quality(self, sender: NodeId, to: NodeId, quality: LinkQuality) -> None:
        self._directions[sender, to].quality = quality

    def cut(self, sender: NodeId, to: NodeId, how: Cut) -> None:
        """Treat frames from `sender` to `to` as `how` says; Cut.OPEN heals and releases what was held."""
        direction = self._directions[sender, to]
        direction.cut = how
        pair = self._pair(sender, to)
        if how is Cut.OPEN:
            held, direction.held = direction.held, []
            for frame in held:
                self._launch(pair, direction, sender, to, frame)
        elif how is Cut.LOST:
            self._close_by_keepalive_later(pair)

    def cut_of(self, sender: NodeId, to: NodeId) -> Cut:
        return self._directions[sender, to].cut

    def quality_of(self, sender: NodeId, to: NodeId) -> LinkQuality:
        return self._directions[sender, to].quality

    def refuse(self, left: NodeId, right: NodeId) -> None:
        """Close the connection and let none be made until `allow`."""
        self._pair(left, right).refused = True
        self.close(left, right)

    def allow(self, left: NodeId, right: NodeId) -> None:
        pair = self._pair(left, right)
        pair.refused = False
        self._reconnect_later(pair)

    def close(self, left: NodeId, right: NodeId) -> None:
        """Reset the connection: what is under way is lost, both ends are told, a new one is tried."""
        pair = self._pair(left, right)
        if not pair.connected:
            return
        pair.connected = False
        pair.epoch += 1
        self._directions[left, right].held.clear()
        self._directions[right, left].held.clear()
        for node, peer in ((pair.low, pair.high), (pair.high, pair.low)):
            if node in self._attached:
                self._user.on_disconnected(node, peer)
        self._reconnect_later(pair)

    def heal(self) -> None:
        """Open every direction, allow every connection, give every link its first quality again."""
        for (sender, to), direction in self._directions.items():
            direction.quality = self._default_quality
            self.cut(sender, to, Cut.OPEN)
        for pair in self._pairs.values():
            self.allow(pair.low, pair.high)

    # Traffic.

    def is_connected(self, left: NodeId, right: NodeId) -> bool:
        return self._pair(left, right).connected

    def send(self, sender: NodeId, to: NodeId, frame: bytes) -> None:
        """Send `frame` on the connection of the two; dropped when there is none."""
        pair = self._pair(sender, to)
        if not pair.connected:
            return
        self._sent_count += 1
        self._sent_bytes += len(frame)
        self._launch(pair, self._directions[sender, to], sender, to, frame)

    def statistics(self) -> NetworkStatistics:
        return NetworkStatistics(
            self._sent_count,
            self._delivered_count,
            self._lost_count,
            self._duplicated_count,
            self._reordered_count,
            self._sent_bytes,
        )

    def _launch(self, pair: _Pair, direction: _Direction, sender: NodeId, to: NodeId, frame: bytes) -> None:
        quality = direction.quality
        draw = self._random.random
        copies = 1
        if quality.loss_rate and draw() < quality.loss_rate:
            self._lost_count += 1
            return
        if quality.duplicate_rate and draw() < quality.duplicate_rate:
            self._duplicated_count += 1
            copies = 2
        epoch = pair.epoch
        for _ in range(copies):
            arrival_us = self._scheduler.now_us + quality.min_delay_us + int(draw() * 2 * quality.mean_extra_us)
            if quality.reorder_rate and draw() < quality.reorder_rate:
                self._reordered_count += 1
                arrival_us += int(draw() * quality.reorder_us)
            elif quality.in_order:
                arrival_us = direction.last_arrival_us = max(arrival_us, direction.last_arrival_us)
            self._scheduler.at(arrival_us, lambda: self._arrive(pair, epoch, direction, sender, to, frame))

    def _arrive(self, pair: _Pair, epoch: int, direction: _Direction, sender: NodeId, to: NodeId, frame: bytes) -> None:
        if pair.epoch != epoch or to not in self._attached:
            return
        if direction.cut is Cut.HELD:
            direction.held.append(frame)
        elif direction.cut is Cut.OPEN:
            self._delivered_count += 1
            self._user.on_frame(sender, to, frame)

    # Connections.

    def _reconnect_later(self, pair: _Pair) -> None:
        if pair.connected or pair.reconnect_pending:
            return
        pair.reconnect_pending = True
        delay_us = self._random.randrange(_RECONNECT_MIN_US, _RECONNECT_MAX_US)
        self._scheduler.after(delay_us, lambda: self._try_connect(pair))

    def _try_connect(self, pair: _Pair) -> None:
        pair.reconnect_pending = False
        if pair.connected:
            return
        low, high = pair.low, pair.high
        if low not in self._attached or high not in self._attached or pair.refused:
            # `attach` and `allow` try again.
            return
        if self._directions[low, high].cut is not Cut.OPEN or self._directions[high, low].cut is not Cut.OPEN:
            self._reconnect_later(pair)
            return
        pair.connected = True
        pair.epoch += 1
        self._user.on_connected(low, high)
        self._user.on_connected(high, low)

    def _close_by_keepalive_later(self, pair: _Pair) -> None:
        if pair.keepalive_pending or not pair.connected:
            return
        pair.keepalive_pending = True
        self._scheduler.after(_KEEPALIVE_US, lambda: self._keepalive(pair))

    def _keepalive(self, pair: _Pair) -> None:
        """Give a connection up if it is still dead; one that has healed in the meantime lives on."""
        pair.keepalive_pending = False
        low, high = pair.low, pair.high
        dead = (
            low not in self._attached
            or high not in self._attached
            or self._directions[low, high].cut is Cut.LOST
            or self._directions[high, low].cut is Cut.LOST
        )
        if dead:
            self.close(low, high)

    def _pair(self, left: NodeId, right: NodeId) -> _Pair:
        return self._pairs[(left, right) if left < right else (right, left)]

    def _pairs_of(self, node: NodeId) -> list[_Pair]:
        return [pair for pair in self._pairs.values() if node in (pair.low, pair.high)]
