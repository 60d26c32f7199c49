"""The bounds and switches of one Raft core. Checked once; the core trusts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from logbroker.errors import ConfigurationError
from logbroker.ids import NO_REPLICA, ReplicaId


@final
@dataclass(frozen=True, slots=True)
class RaftConfig:
    """One tick is whatever the driver makes it; all time here is counted in ticks.

    `max_message_bytes` bounds the entries of one append, `max_inflight_*` the appends on their way to
    one follower, `max_uncommitted_bytes` what a leader has proposed and not committed (more is refused),
    `max_committed_bytes_per_ready` what is handed out to apply and not applied, `max_write_bytes` the
    entries that one Ready hands out to be made durable. Each bound lets one entry through, however large.
    `max_trace_events` 0 turns tracing off.

    `gather_appends` sends what was proposed and committed with the next Ready, in one append a follower, and not each
    proposal by itself: what gathers while the window is full leaves together. `lazy_commit`, on top of that, sends no
    append that has nothing but a new commit index: it goes with the next entries or the next heartbeat. Nothing that
    is acknowledged waits for it, followers apply that much later, and the messages are halved. `packs_heartbeats`
    leaves heartbeats that carry no read to the driver, which packs those of many groups into one message.
    `names_heir` lets a leader that steps down because it hears no majority ask the most caught-up other voter to
    campaign: where it is only not heard itself, nobody else would notice for another election timeout.

    `pre_vote`, `check_quorum` and `step_down_on_removal` are meant to stay on: they exist so that
    scripts written for a core without them can be replayed. `async_storage=False` hands out committed
    entries that are not durable here yet, for a driver that persists a Ready before it applies it.
    """

    replica: ReplicaId
    election_ticks: int
    heartbeat_ticks: int
    pre_vote: bool = True
    check_quorum: bool = True
    max_message_bytes: int = 1 << 20
    max_inflight_messages: int = 256
    max_inflight_bytes: int = 16 << 20
    max_uncommitted_bytes: int = 64 << 20
    max_committed_bytes_per_ready: int = 4 << 20
    max_write_bytes: int = 1 << 40
    max_pending_reads: int = 4096
    gather_appends: bool = False
    lazy_commit: bool = False
    packs_heartbeats: bool = False
    names_heir: bool = False
    async_storage: bool = True
    step_down_on_removal: bool = True
    max_trace_events: int = 0

    def __post_init__(self) -> None:
        if self.replica == NO_REPLICA:
            raise ConfigurationError("replica 0 stands for none and cannot be a member")
        if not 0 < self.heartbeat_ticks < self.election_ticks:
            raise ConfigurationError(
                f"heartbeat_ticks {self.heartbeat_ticks} is not between 1 and election_ticks {self.election_ticks}"
            )
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}, below 1")
        if self.lazy_commit and not self.gather_appends:
            raise ConfigurationError("lazy_commit needs gather_appends")
        if self.max_inflight_bytes < self.max_message_bytes:
            raise ConfigurationError(
                f"max_inflight_bytes {self.max_inflight_bytes} is below max_message_bytes {self.max_message_bytes}"
            )


_POSITIVE = (
    "max_message_bytes",
    "max_inflight_messages",
    "max_uncommitted_bytes",
    "max_committed_bytes_per_ready",
    "max_write_bytes",
    "max_pending_reads",
)
