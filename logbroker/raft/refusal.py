"""Why a request to a replica was turned away; nothing was appended and nothing will come of it."""

from __future__ import annotations

from enum import Enum
from typing import final

from logbroker.errors import UnavailableError


@final
class RefusalReason(Enum):
    NOT_LEADER = "not_leader"
    NOT_MEMBER = "not_member"
    TRANSFER_IN_PROGRESS = "transfer_in_progress"
    TOO_MUCH_UNCOMMITTED = "too_much_uncommitted"
    CONFIG_PENDING = "config_pending"
    CONFIG_DOES_NOT_FIT = "config_does_not_fit"
    NO_COMMIT_IN_TERM = "no_commit_in_term"
    TOO_MANY_READS = "too_many_reads"
    NO_SUCH_VOTER = "no_such_voter"


class ProposalRefused(UnavailableError):
    """`reason` is for the driver, which knows what its own caller should hear."""

    code = "proposal_refused"

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
