"""What every command asks for, and one request of each kind: the matrix that every door is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.node.catalogue.rights import Rights
from logbroker.wire.requests import (
    Ack,
    AlterQueue,
    AnyRequest,
    Cancel,
    CreateGroup,
    CreateQueue,
    CreateToken,
    Credit,
    DeleteGroup,
    DeleteQueue,
    DeleteToken,
    DescribeGroups,
    DescribeQueue,
    EarliestTarget,
    Extend,
    ListDead,
    ListQueues,
    ListTokens,
    Metadata,
    MoveMessages,
    Nack,
    PauseGroup,
    Peek,
    Produce,
    PurgeGroup,
    QueueChanges,
    QueueSettings,
    Receive,
    Reject,
    Release,
    Request,
    ResumeGroup,
    Revive,
    Rewind,
    Status,
    Subscribe,
    Unsubscribe,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PRODUCE, CONSUME, REWIND, PURGE, ADMIN = Rights.PRODUCE, Rights.CONSUME, Rights.REWIND, Rights.PURGE, Rights.ADMIN


def about(queue: str, rid: Callable[[], int] = lambda: 1) -> dict[type[Request], AnyRequest]:
    """One request of each kind, about `queue` where it is about one."""
    return {
        Metadata: Metadata(rid(), queues=[queue]),
        Produce: Produce(rid(), queue=queue, partition=0),
        Receive: Receive(
            rid(),
            queue=queue,
            partition=0,
            group="default",
            max_count=1,
            max_bytes=1,
            hide_ms=1000,
            wait_ms=0,
            session=1,
            request_id=1,
        ),
        Ack: Ack(rid(), queue=queue, partition=0, group="default", items=[]),
        Nack: Nack(rid(), queue=queue, partition=0, group="default", items=[]),
        Extend: Extend(rid(), queue=queue, partition=0, group="default", items=[], hide_ms=1000),
        Release: Release(rid(), queue=queue, partition=0, group="default", leases=[]),
        Rewind: Rewind(rid(), queue=queue, group="default", rewind_id=1, target=EarliestTarget()),
        Reject: Reject(rid(), queue=queue, partition=0, group="default", items=[]),
        ListDead: ListDead(rid(), queue=queue, partition=0, group="default"),
        Revive: Revive(rid(), queue=queue, partition=0, group="default", ranges=[]),
        # From a partition that is not there: the right on the other queue is asked for after that.
        MoveMessages: MoveMessages(
            rid(), queue=queue, partition=99, group="default", ranges=[], to_queue=queue, to_partition=0
        ),
        # Answered at once where it is let through, as all others are: it hides for too short a time.
        Subscribe: Subscribe(
            rid(),
            queue=queue,
            partition=0,
            group="default",
            hide_ms=1,
            credit_count=1,
            credit_bytes=1,
            max_count=1,
            max_bytes=1,
        ),
        Credit: Credit(rid(), queue=queue, subscription=1),
        Unsubscribe: Unsubscribe(rid(), queue=queue, subscription=1),
        Cancel: Cancel(rid(), queue=queue, partition=0, ranges=[(0, 1)]),
        Peek: Peek(rid(), queue=queue, partition=0, group="default", max_count=1, max_bytes=1),
        PauseGroup: PauseGroup(rid(), queue=queue, group="default"),
        ResumeGroup: ResumeGroup(rid(), queue=queue, group="default"),
        PurgeGroup: PurgeGroup(rid(), queue=queue, group="default", purge_id=1),
        CreateQueue: CreateQueue(rid(), name=queue, settings=QueueSettings()),
        AlterQueue: AlterQueue(rid(), name=queue, changes=QueueChanges()),
        DeleteQueue: DeleteQueue(rid(), name=queue),
        ListQueues: ListQueues(rid()),
        DescribeQueue: DescribeQueue(rid(), name=queue),
        DescribeGroups: DescribeGroups(rid(), queue=queue),
        CreateGroup: CreateGroup(rid(), queue=queue, group="billing", start=EarliestTarget()),
        DeleteGroup: DeleteGroup(rid(), queue=queue, group="billing"),
        CreateToken: CreateToken(rid(), name="shop", rights=["*:all"]),
        DeleteToken: DeleteToken(rid(), name="shop"),
        ListTokens: ListTokens(rid()),
        Status: Status(rid()),
    }


# What each command asks for: any one of these rights on the queue, or on the cluster; None lets everybody ask.
WANTED: dict[type[Request], tuple[tuple[Rights, ...], bool] | None] = {
    Metadata: None,
    ListQueues: None,
    Produce: ((PRODUCE,), False),
    Receive: ((CONSUME,), False),
    Ack: ((CONSUME,), False),
    Nack: ((CONSUME,), False),
    Extend: ((CONSUME,), False),
    Release: ((CONSUME,), False),
    Rewind: ((REWIND,), False),
    Reject: ((CONSUME,), False),
    ListDead: ((CONSUME,), False),
    Revive: ((REWIND,), False),
    MoveMessages: ((REWIND,), False),
    Subscribe: ((CONSUME,), False),
    Credit: ((CONSUME,), False),
    Unsubscribe: ((CONSUME,), False),
    Peek: ((CONSUME,), False),
    PauseGroup: ((REWIND,), False),
    ResumeGroup: ((REWIND,), False),
    PurgeGroup: ((PURGE,), False),
    Cancel: ((PRODUCE,), False),
    CreateQueue: ((ADMIN,), False),
    AlterQueue: ((ADMIN,), False),
    DeleteQueue: ((ADMIN,), False),
    DescribeQueue: ((CONSUME, ADMIN), False),
    DescribeGroups: ((CONSUME, ADMIN), False),
    CreateGroup: ((ADMIN,), False),
    DeleteGroup: ((ADMIN,), False),
    CreateToken: ((ADMIN,), True),
    DeleteToken: ((ADMIN,), True),
    ListTokens: ((ADMIN,), True),
    Status: ((ADMIN,), True),
}
