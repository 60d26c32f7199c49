"""Settings of clients, producers and consumers, with the bounds that the code below relies on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from logbroker.errors import InvalidArgumentError

OnClose: TypeAlias = Literal["keep", "release"]
"""What becomes of a consumer's leases when a connection that brought them ends: `keep`, they stay until their hide time
is over; `release`, what is left of them goes back, not counted as delivered."""


def check_on_close(value: str) -> None:
    if value not in ("keep", "release"):
        raise InvalidArgumentError(f"on_close is {value!r}, not keep or release")


def check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidArgumentError(f"{name} is {value}, outside {low} to {high}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    token: str = ""
    name: str = ""
    """What this client is called in the traces of the server; empty means this library's own name."""
    timeout_s: float = 30.0
    """How long an operation is tried before its outcome counts as unknown."""
    connect_timeout_s: float = 5.0
    """For one connection, up to the server's welcome."""
    close_timeout_s: float = 2.0
    ping_interval_s: float = 5.0
    """A connection that is silent for two of these is given up."""
    max_message_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        check_range("timeout", self.timeout_s, 0.001, 86_400)
        check_range("connect_timeout", self.connect_timeout_s, 0.001, 3_600)
        check_range("close_timeout", self.close_timeout_s, 0, 3_600)
        check_range("ping_interval", self.ping_interval_s, 0.01, 3_600)
        check_range("max_message_bytes", self.max_message_bytes, 65_536, 1 << 30)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    timeout_s: float = 30.0
    batch_bytes: int = 512 * 1024
    """What a batch holds at most, before compression, and no more than the server takes in one."""
    linger_s: float = 0.0
    """How long a batch of less than 256 KiB waits for more; 0 sends as soon as nothing is on its way."""
    is_compressed: bool = True
    max_buffered_bytes: int = 32 * 1024 * 1024
    """Values and keys without their confirmation; more than these wait."""
    max_in_flight_count: int = 5
    """Batches of a partition on their way. The server recognises the last five as repeats, not more."""

    def __post_init__(self) -> None:
        check_range("timeout", self.timeout_s, 0.001, 86_400)
        check_range("batch_bytes", self.batch_bytes, 1, 16 * 1024 * 1024)
        check_range("linger", self.linger_s, 0, 60)
        check_range("max_buffered_bytes", self.max_buffered_bytes, 1, 1 << 40)
        check_range("max_in_flight_count", self.max_in_flight_count, 1, 5)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    group: str = "default"
    hide_s: float | None = None
    """How long a received message stays hidden from others; None takes the queue's setting."""
    wait_s: float = 20.0
    """How long one receive waits at the server for messages."""
    max_messages: int = 1000
    """Of one receive."""
    max_bytes: int = 1024 * 1024
    """Of one receive, compressed; a single batch may be larger."""
    prefetch_count: int = 4
    """Receives that are on their way, or arrived and not yet taken, beside one for each partition."""
    timeout_s: float = 30.0
    """For acks and the like."""
    name: str = ""
    """What this consumer is called in traces."""
    on_close: OnClose = "keep"

    def __post_init__(self) -> None:
        if not self.group:
            raise InvalidArgumentError("the name of a consumer group cannot be empty")
        check_on_close(self.on_close)
        if self.hide_s is not None:
            check_range("hide", self.hide_s, 1, 43_200)
        check_range("wait", self.wait_s, 0.1, 30)
        check_range("max_messages", self.max_messages, 1, 10_000)
        check_range("max_bytes", self.max_bytes, 1, 16 * 1024 * 1024)
        check_range("prefetch_count", self.prefetch_count, 1, 1000)
        check_range("timeout", self.timeout_s, 0.001, 86_400)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionOptions:
    group: str = "default"
    hide_s: float | None = None
    """How long a delivered message stays hidden from others; None takes the queue's setting."""
    credit_count: int = 1000
    """Messages of a partition that are pushed, arrived, or worked on."""
    credit_bytes: int = 4 * 1024 * 1024
    """The same in bytes of batches, compressed."""
    max_messages: int = 1000
    """Of one delivery; half of the credit at the most."""
    max_bytes: int = 1024 * 1024
    """Of one delivery, compressed; a single batch may be larger."""
    timeout_s: float = 30.0
    """For acks and the like."""
    name: str = ""
    """What this consumer is called in traces."""
    on_close: OnClose = "keep"

    def __post_init__(self) -> None:
        if not self.group:
            raise InvalidArgumentError("the name of a consumer group cannot be empty")
        check_on_close(self.on_close)
        if self.hide_s is not None:
            check_range("hide", self.hide_s, 1, 43_200)
        check_range("credit", self.credit_count, 1, 1_000_000)
        check_range("credit_bytes", self.credit_bytes, 4096, 1 << 30)
        check_range("max_messages", self.max_messages, 1, 10_000)
        check_range("max_bytes", self.max_bytes, 1, 16 * 1024 * 1024)
        check_range("timeout", self.timeout_s, 0.001, 86_400)
