"""The ceilings that apply holds the catalogue to: constants, because nodes may be configured differently.

What an operator sets (`limits` in the configuration) is lower and is held by the leader, before it proposes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import final

MAX_NODES = 64
MAX_MEMBERS = 7
MAX_QUEUES = 10_000
MAX_PARTITIONS_PER_QUEUE = 1_024
MAX_PARTITIONS = 10_000
MAX_TOKENS = 10_000
MAX_GRANTS_PER_TOKEN = 64
MAX_PENDING_REWINDS_PER_GROUP = 64
MAX_REWINDS = 1_000
"""Rewinds remembered, pending ones included; the oldest finished one goes first."""
MAX_RETIRED_INCARNATIONS = 1_000
MAX_REPLICAS_PER_GROUP = 4 * MAX_MEMBERS
"""Members, and the learners and leavers of moves that are under way."""

MAX_COMMANDS_PER_ENTRY = 1_024
MAX_CHECKPOINT_BYTES = 256 << 20

MIN_RETENTION_MS = 60_000
MAX_RETENTION_MS = 1_296_000_000
MIN_HIDE_MS = 1_000
MAX_HIDE_MS = 43_200_000
MAX_WAIT_MS = 30_000
MAX_DELIVERY_COUNT = 1_000

MAX_NAME_BYTES = 200

MAX_GROUP_NAME_BYTES = 128

_NAME = re.compile(r"[a-z0-9._-]{1,200}", re.ASCII)
# As the partitions have it, which own the consumer groups.
_GROUP_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


@final
@dataclass(frozen=True, slots=True)
class CatalogueLimits:
    """What the leader's configuration allows; each at or below its ceiling."""

    max_queues: int = MAX_QUEUES
    max_partitions_per_queue: int = MAX_PARTITIONS_PER_QUEUE
    max_partitions: int = MAX_PARTITIONS
    max_tokens: int = MAX_TOKENS
    max_grants_per_token: int = MAX_GRANTS_PER_TOKEN
    max_pending_rewinds: int = MAX_PENDING_REWINDS_PER_GROUP


CEILINGS = CatalogueLimits()


def name_fault(what: str, name: str) -> str | None:
    """Say what is wrong with the name of a queue or token, or None.

    Names are never used as paths; `.` and `..` are refused all the same, because others will use them so.
    """
    if _NAME.fullmatch(name) is None:
        return f"{what} name {name[:MAX_NAME_BYTES]!r} is not 1 to {MAX_NAME_BYTES} of a-z 0-9 . _ -"
    return f"{what} name {name!r} is not allowed" if name in {".", ".."} else None


def group_name_fault(name: str) -> str | None:
    """Say what is wrong with the name of a consumer group, or None."""
    if _GROUP_NAME.fullmatch(name) is None:
        return f"group name {name[:MAX_NAME_BYTES]!r} is not 1 to {MAX_GROUP_NAME_BYTES} of A-Z a-z 0-9 . _ -"
    return None
