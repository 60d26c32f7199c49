"""Commands about queues, and about the tokens that may use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from logbroker.ids import ReplicaId
from logbroker.node.catalogue import placement
from logbroker.node.catalogue.bounds import (
    MAX_DELIVERY_COUNT,
    MAX_HIDE_MS,
    MAX_RETENTION_MS,
    MAX_WAIT_MS,
    MIN_HIDE_MS,
    MIN_RETENTION_MS,
    CatalogueLimits,
    name_fault,
)
from logbroker.node.catalogue.options import DEFAULT_OPTIONS, ORDER_KEY, QueueOptions, changed, options_fault
from logbroker.node.catalogue.outcomes import (
    Done,
    Outcome,
    QueueGone,
    QueueStands,
    Refused,
    exists,
    invalid,
    not_found,
    too_many,
)
from logbroker.node.catalogue.rights import grant_fault
from logbroker.node.catalogue.rows import QueueRow, QueueSettings, TokenRow

if TYPE_CHECKING:
    from logbroker.ids import GroupId
    from logbroker.node.catalogue.commands import AlterQueue, CreateQueue, CreateToken, DeleteQueue, DeleteToken
    from logbroker.node.catalogue.options import Pairs
    from logbroker.node.catalogue.state import CatalogueState

_BOUNDS = (
    ("retention_ms", MIN_RETENTION_MS, MAX_RETENTION_MS),
    ("hide_ms", MIN_HIDE_MS, MAX_HIDE_MS),
    ("max_wait_ms", 0, MAX_WAIT_MS),
    ("max_delivery_count", 0, MAX_DELIVERY_COUNT),
)


def create_queue(
    state: CatalogueState, command: CreateQueue, limits: CatalogueLimits, at_ms: int, pairs: Pairs = ()
) -> Outcome:
    """Idempotent for the same settings and options: a retry of a lost reply finds its queue."""
    options = changed(DEFAULT_OPTIONS, pairs)
    fault = name_fault("queue", command.name) or settings_fault(command.settings) or options_fault(options)
    if fault is not None:
        return invalid(fault)
    present = state.queues.get(command.name)
    refusal = _dead_letter_refusal(state, present, options) if pairs else None
    if refusal is not None:
        return refusal
    if present is not None:
        if (present.settings, _options_of(state, present)) == (command.settings, options):
            return QueueStands(present, already=True)
        return exists(f"queue {command.name} exists with other settings", hint="alter it, or take another name")
    if len(state.queues) >= limits.max_queues:
        return too_many(f"the cluster has {len(state.queues)} queues, limits.max_queues is {limits.max_queues}")
    refusal = _room_for(state, limits, present=0, wanted=command.settings.partitions)
    if refusal is not None:
        return refusal
    queue = QueueRow(
        queue_id=state.next_queue,
        name=command.name,
        settings=command.settings,
        created_ms=at_ms,
        changed_ms=at_ms,
        routing_epoch=1,
        groups=(),
    )
    state.next_queue += 1
    queue = _grow(state, queue, command.settings.partitions)
    state.queues[queue.name] = queue
    _set_options(state, queue, options)
    return QueueStands(queue)


def alter_queue(
    state: CatalogueState, command: AlterQueue, limits: CatalogueLimits, at_ms: int, pairs: Pairs = ()
) -> Outcome:
    queue = state.queues.get(command.name)
    if queue is None:
        return not_found(f"there is no queue {command.name}")
    settings = _changed(queue.settings, command)
    options = changed(_options_of(state, queue), pairs)
    if options.dead_letter_queue != _options_of(state, queue).dead_letter_queue:
        refusal = _dead_letter_refusal(state, queue, options)
        if refusal is not None:
            return refusal
    fault = settings_fault(settings) or options_fault(options)
    if fault is not None:
        return invalid(f"queue {queue.name}: {fault}")
    if (settings, options) == (queue.settings, _options_of(state, queue)):
        return QueueStands(queue, already=True)
    present = len(queue.groups)
    if settings.partitions < present:
        return invalid(
            f"queue {queue.name} has {present} partitions and cannot go back to {settings.partitions}",
            hint="messages keep their partition for life; create another queue",
        )
    refusal = _room_for(state, limits, present=present, wanted=settings.partitions)
    if refusal is not None:
        return refusal
    grows = settings.partitions > present
    if grows and options.order == ORDER_KEY:
        return invalid(
            f"queue {queue.name} is ordered by key and cannot grow from {present} to {settings.partitions} partitions",
            hint="a key would move to another partition while messages of it wait in the old one; create another queue",
        )
    epoch = queue.routing_epoch + 1 if grows else queue.routing_epoch
    queue = replace(queue, settings=settings, changed_ms=at_ms, routing_epoch=epoch)
    state.queues[queue.name] = _grow(state, queue, settings.partitions)
    _set_options(state, queue, options)
    return QueueStands(state.queues[queue.name])


def delete_queue(state: CatalogueState, command: DeleteQueue) -> Outcome:
    queue = state.queues.pop(command.name, None)
    if queue is None:
        return not_found(f"there is no queue {command.name}")
    state.options.pop(queue.queue_id, None)
    for group in queue.groups:
        del state.groups[group]
    state.rewinds = {key: row for key, row in state.rewinds.items() if row.queue_id != queue.queue_id}
    return QueueGone(queue)


def create_token(state: CatalogueState, command: CreateToken, limits: CatalogueLimits, at_ms: int) -> Outcome:
    fault = name_fault("token", command.name) or _grants_fault(command, limits)
    if fault is not None:
        return invalid(fault)
    row = TokenRow(command.name, command.digest, command.grants, at_ms)
    present = state.tokens.get(command.name)
    if present is not None:
        if (present.digest, present.grants) == (row.digest, row.grants):
            return Done(already=True)
        return exists(f"token {command.name} exists", hint="delete it first: whoever holds it would lose it unawares")
    if any(other.digest == command.digest for other in state.tokens.values()):
        return exists(f"the secret of token {command.name} is in use under another name")
    if len(state.tokens) >= limits.max_tokens:
        return too_many(f"the cluster has {len(state.tokens)} tokens, limits.max_tokens is {limits.max_tokens}")
    state.tokens[command.name] = row
    return Done()


def delete_token(state: CatalogueState, command: DeleteToken) -> Outcome:
    if state.tokens.pop(command.name, None) is None:
        return not_found(f"there is no token {command.name}")
    return Done()


def settings_fault(settings: QueueSettings) -> str | None:
    """Say which setting of a queue lies outside its bounds, or None."""
    if settings.partitions < 1:
        return "partitions 0 is below 1"
    for name, smallest, largest in _BOUNDS:
        value = getattr(settings, name)
        if not smallest <= value <= largest:
            return f"{name} {value:,} is not between {smallest:,} and {largest:,}"
    return None


def _options_of(state: CatalogueState, queue: QueueRow) -> QueueOptions:
    return state.options.get(queue.queue_id, DEFAULT_OPTIONS)


def _dead_letter_refusal(state: CatalogueState, queue: QueueRow | None, options: QueueOptions) -> Outcome | None:
    """Why dead messages cannot go to where the options say. One that is deleted later is no fault of theirs."""
    wanted = options.dead_letter_queue
    if not wanted:
        return None
    if queue is not None and queue.queue_id == wanted:
        return invalid(f"queue {queue.name} cannot be the one for its own dead messages")
    names = {other.queue_id: other.name for other in state.queues.values()}
    if wanted not in names:
        return not_found(f"there is no queue of id {wanted} for dead messages")
    passed: set[int] = set()
    while queue is not None and wanted and wanted not in passed:
        passed.add(wanted)
        beyond = state.options.get(wanted, DEFAULT_OPTIONS).dead_letter_queue
        if beyond == queue.queue_id:
            return invalid(
                f"queue {queue.name} would get its dead messages back from queue {names.get(wanted, wanted)}"
            )
        wanted = beyond
    return None


def _set_options(state: CatalogueState, queue: QueueRow, options: QueueOptions) -> None:
    if options == DEFAULT_OPTIONS:
        state.options.pop(queue.queue_id, None)
    else:
        state.options[queue.queue_id] = options


def _grants_fault(command: CreateToken, limits: CatalogueLimits) -> str | None:
    count = len(command.grants)
    if not 1 <= count <= limits.max_grants_per_token:
        return f"{count} grants; a token has 1 to {limits.max_grants_per_token} (limits.max_grants_per_token)"
    return next((fault for fault in map(grant_fault, command.grants) if fault is not None), None)


def _changed(settings: QueueSettings, command: AlterQueue) -> QueueSettings:
    given = {name: getattr(command, name) for name in QueueSettings.__struct_fields__}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def _room_for(state: CatalogueState, limits: CatalogueLimits, *, present: int, wanted: int) -> Refused | None:
    """Refuse a growth to `wanted` partitions that is beyond a limit; a queue that is beyond it already may stay so."""
    if wanted == present:
        return None
    if wanted > limits.max_partitions_per_queue:
        return too_many(f"{wanted} partitions, limits.max_partitions_per_queue is {limits.max_partitions_per_queue}")
    total = state.partition_count + wanted - present
    if total > limits.max_partitions:
        return too_many(f"the cluster would have {total} partitions, limits.max_partitions is {limits.max_partitions}")
    if not state.joined_members():
        return invalid("no member of the cluster has joined yet")
    return None


def _grow(state: CatalogueState, queue: QueueRow, wanted: int) -> QueueRow:
    """Add partitions up to `wanted`, one voter on each joined member; the first place goes round the members."""
    nodes = state.joined_members()
    groups: list[GroupId] = list(queue.groups)
    for partition in range(len(groups), wanted):
        group = state.take_group_id()
        turn = group % len(nodes)
        state.groups[group] = placement.found(
            group,
            queue_id=queue.queue_id,
            partition=partition,
            nodes=[*nodes[turn:], *nodes[:turn]],
            first_replica=ReplicaId(state.next_replica),
        )
        state.next_replica += len(nodes)
        groups.append(group)
    return replace(queue, groups=tuple(groups))
