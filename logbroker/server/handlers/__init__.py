"""What each kind of request does: looked up in the catalogue, sent to a partition or to the meta group, and answered.

Handlers run inside the dispatch of a message, so they do not wait; what has to wait is started as a task of the
connection with `run_task`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.server.handlers.admin import (
    create_token,
    delete_token,
    list_queues,
    list_tokens,
    metadata,
    status,
)
from logbroker.server.handlers.group_figures import describe_groups
from logbroker.server.handlers.groups import create_group, delete_group, rewind
from logbroker.server.handlers.moves import move_messages
from logbroker.server.handlers.pauses import pause_group, purge_group, resume_group
from logbroker.server.handlers.peek import peek
from logbroker.server.handlers.produce import cancel, produce
from logbroker.server.handlers.queues import alter_queue, create_queue, delete_queue, describe_queue
from logbroker.server.handlers.receive import receive, release
from logbroker.server.handlers.settle import ack, extend, list_dead, nack, reject, revive
from logbroker.server.handlers.subscribe import credit, subscribe, unsubscribe
from logbroker.wire.requests import (
    Ack,
    AlterQueue,
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
    from logbroker.server.session import Handler

HANDLERS: dict[type[Request], Handler] = {
    Metadata: metadata,
    Produce: produce,
    Receive: receive,
    Ack: ack,
    Nack: nack,
    Extend: extend,
    Release: release,
    Rewind: rewind,
    CreateQueue: create_queue,
    AlterQueue: alter_queue,
    DeleteQueue: delete_queue,
    ListQueues: list_queues,
    DescribeQueue: describe_queue,
    CreateGroup: create_group,
    DeleteGroup: delete_group,
    CreateToken: create_token,
    DeleteToken: delete_token,
    ListTokens: list_tokens,
    Status: status,
    Reject: reject,
    ListDead: list_dead,
    Revive: revive,
    MoveMessages: move_messages,
    Subscribe: subscribe,
    Credit: credit,
    Unsubscribe: unsubscribe,
    DescribeGroups: describe_groups,
    Peek: peek,
    PauseGroup: pause_group,
    ResumeGroup: resume_group,
    PurgeGroup: purge_group,
    Cancel: cancel,
}
"""Every kind of request but Hello and Ping, which the session answers by itself."""
