"""What this node has to do so that its replicas, and the groups it leads, become what the catalogue says.

Decisions are pure functions of one applied state of the catalogue and of what is here. Each may be made any number of
times: replica ids are never used again, and every step is checked again where it takes effect.

A replica is created only from a state of the catalogue that is as new as anything this node ever acted on (`Placement`
sees to that): an older one may name a replica that was here, was removed and had voted.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast, final

from logbroker.errors import LogBrokerError
from logbroker.ids import META_GROUP, NO_REPLICA, GroupId, Index, NodeId, ReplicaId, Term
from logbroker.node.catalogue.commands import Command, JoinNode, PromoteReplica, RemoveReplica, StartMove
from logbroker.node.catalogue.options import BLOCK, DROP_OLDEST, ORDER_KEY
from logbroker.node.catalogue.rows import GroupRow, NodeRow, QueueRow, ReplicaRow, ReplicaState
from logbroker.node.moving import QueuePlace
from logbroker.node.partition_service import PartitionService, PartitionSettings
from logbroker.partition.breaker import BreakerPolicy
from logbroker.partition.failures import FailurePolicy
from logbroker.partition.limits import MIN_PARTITION_BYTES, SizeLimits
from logbroker.partition.ordering import order_policy
from logbroker.raft.config_change import ChangeKind, ConfigChange, ConfigProposal, Transition
from logbroker.raft.messages import ConfState, Role
from logbroker.raft.progress import ProgressState
from logbroker.raft.refusal import ProposalRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from logbroker.node.catalogue import Catalogue
    from logbroker.node.catalogue.options import QueueOptions
    from logbroker.node.engine import Engine
    from logbroker.node.replica import Replica
    from logbroker.raft.core import ProgressStatus

logger = logging.getLogger(__name__)

MAX_LEARNER_LAG = 256
"""A learner at most this many entries behind is caught up: what is in flight does not hold a promotion up for ever."""
REPORT_EVERY_MS = 1_000
BALANCE_AFTER_MS = 10_000
"""How long the first replica of a group must have been fit to lead before leadership is handed to it."""
LOOK_EVERY_MS = 3_000
"""Where nothing was to be done and nothing changed since, all groups are looked at this often all the same."""


@final
@dataclass(frozen=True, slots=True)
class Creation:
    group: GroupId
    replica: ReplicaId
    voters: tuple[ReplicaId, ...]
    """The configuration of the empty log; later ones are in the log."""


@final
@dataclass(frozen=True, slots=True)
class Duties:
    """What the catalogue asks of this node's own replicas."""

    create: tuple[Creation, ...]
    remove: tuple[ReplicaId, ...]
    report: tuple[Command, ...]
    problems: tuple[str, ...]


def decide_duties(
    catalogue: Catalogue,
    node: NodeId,
    incarnation: bytes,
    *,
    held: Mapping[ReplicaId, GroupId],
    lost: Mapping[ReplicaId, str],
) -> Duties:
    """Compare what is `held` here, the `lost` ones included, with what the catalogue wants here.

    Nothing is removed that the catalogue does not know to be gone: what is unknown to it is kept and reported.
    """
    wanted = {row.replica: (group, row) for group, row in catalogue.replicas_on(node, incarnation)}
    named = {row.replica for group in catalogue.groups() for row in group.replicas}
    alive = {group for replica, group in held.items() if replica not in lost}
    create: list[Creation] = []
    report: list[Command] = []
    for replica, (group, row) in wanted.items():
        # A leaving voter of the empty log may be needed to make the change in which it goes.
        is_due = row.state is not ReplicaState.LEAVING or replica in group.initial
        if replica not in held and group.group not in alive and is_due:
            create.append(Creation(group.group, replica, tuple(sorted(group.initial))))
        elif replica in lost and row.state is not ReplicaState.LEAVING:
            report.append(StartMove(group.group, replica, node))
    remove: list[ReplicaId] = []
    problems: list[str] = []
    for replica, group_id in held.items():
        if replica in named:
            continue
        # Asked of the meta group, which is always there: any id below the next one was given out once.
        if catalogue.is_replica_gone(META_GROUP, replica):
            remove.append(replica)
        else:
            problems.append(f"replica {replica} of group {group_id} is not known to the catalogue; it is kept")
    problems += [f"replica {replica} is lost and waits for its replacement: {why}" for replica, why in lost.items()]
    return Duties(tuple(create), tuple(remove), tuple(report), tuple(problems))


@final
@dataclass(frozen=True, slots=True)
class GroupStep:
    """What a leader does next for its group: at most one change of configuration at a time."""

    change: ConfigProposal | None = None
    hands_over: bool = False
    report: tuple[Command, ...] = ()


def decide_step(
    row: GroupRow, *, own: ReplicaId, conf: ConfState, progress: Sequence[ProgressStatus], last_index: Index
) -> GroupStep:
    """One step of the group's applied configuration towards its row.

    Order: who is to come becomes a learner; a learner that has everything becomes a voter in the same joint change in
    which the one it replaces goes; who leaves with nothing in its place goes last.
    """
    if conf.is_joint:
        return GroupStep()
    members = set(conf.members())
    report = _reports(row, conf, members)
    by_id = {status.replica: status for status in progress}
    staying = row.staying()
    for replica in staying:
        if replica.replica not in members:
            return GroupStep(_change(ConfigChange(ChangeKind.ADD_LEARNER, replica.replica)), report=report)
    for replica in staying:
        if replica.replica not in conf.learners or not _is_filled(by_id.get(replica.replica), last_index):
            continue
        old = _replaced(row, replica, conf)
        if old == own:
            return GroupStep(hands_over=True, report=report)
        changes = [ConfigChange(ChangeKind.ADD_VOTER, replica.replica)]
        if old != NO_REPLICA:
            changes.append(ConfigChange(ChangeKind.REMOVE, old))
        return GroupStep(_change(*changes), report=report)
    for replica in row.replicas:
        leaves = replica.state is ReplicaState.LEAVING and replica.replica in members
        if not leaves or row.is_awaited(replica.replica) or conf.voters == (replica.replica,):
            continue
        if replica.replica == own:
            return GroupStep(hands_over=True, report=report)
        return GroupStep(_change(ConfigChange(ChangeKind.REMOVE, replica.replica)), report=report)
    return GroupStep(report=report)


def partition_settings(catalogue: Catalogue, queue: QueueRow, partition: int) -> PartitionSettings:
    """What a partition has to know of its queue."""
    settings, options = queue.settings, catalogue.options(queue)
    failures = FailurePolicy(
        max_deliveries=settings.max_delivery_count,
        backoff_ms=options.backoff_ms,
        max_backoff_ms=options.max_backoff_ms,
        backoff_factor=options.backoff_factor,
        jitter=options.jitter_percent / 100,
    )
    breaker = BreakerPolicy(
        options.breaker_percent, options.breaker_count, options.breaker_window_ms, options.breaker_pause_ms
    )
    letters = catalogue.queue_of_id(options.dead_letter_queue)
    return PartitionSettings(
        retention_s=settings.retention_ms // 1000,
        failures=failures,
        breaker=breaker if breaker.percent else None,
        max_age_ms=options.max_age_ms,
        limits=_share(settings.partitions, options),
        rewind_ms=options.rewind_ms,
        order=order_policy(options.window, by_key=options.order == ORDER_KEY, blocks=options.on_failure == BLOCK),
        place=QueuePlace(queue.name, partition),
        dead_letters=None if letters is None else letters.groups[partition % len(letters.groups)],
        dedup_window_ms=min(options.dedup_window_ms, settings.retention_ms),
        dedup_count=options.dedup_count,
    )


def _share(partitions: int, options: QueueOptions) -> SizeLimits:
    """What one of so many partitions may hold: an even share, rounded up, for no partition knows of the others."""
    max_bytes = max(MIN_PARTITION_BYTES, -(-options.max_bytes // partitions)) if options.max_bytes else 0
    max_messages = -(-options.max_messages // partitions)
    return SizeLimits(max_messages, max_bytes, drops_oldest=options.full == DROP_OLDEST)


def _reports(row: GroupRow, conf: ConfState, members: set[ReplicaId]) -> tuple[Command, ...]:
    found: list[Command] = []
    for replica in row.replicas:
        if replica.state is ReplicaState.LEARNER and replica.replica in conf.voters:
            found.append(PromoteReplica(row.group, replica.replica))
        elif (
            replica.state is ReplicaState.LEAVING
            and replica.replica not in members
            and not row.is_awaited(replica.replica)
        ):
            found.append(RemoveReplica(row.group, replica.replica))
    return tuple(found)


def _replaced(row: GroupRow, learner: ReplicaRow, conf: ConfState) -> ReplicaId:
    """The voter that goes as the learner comes; 0 where there is none."""
    old = row.replica(learner.replaces)
    if old is None or old.state is not ReplicaState.LEAVING or old.replica not in conf.voters:
        return NO_REPLICA
    return old.replica


def _is_filled(status: ProgressStatus | None, last_index: Index) -> bool:
    """A learner that has everything up to a few entries in flight, and answers."""
    return (
        status is not None
        and status.state is ProgressState.REPLICATE
        and status.recent_active
        and status.match > 0
        and last_index - status.match <= MAX_LEARNER_LAG
    )


def _change(*changes: ConfigChange) -> ConfigProposal:
    return ConfigProposal(changes, Transition.AUTO if len(changes) == 1 else Transition.IMPLICIT)


def preferred_leader(
    row: GroupRow, *, own: ReplicaId, progress: Iterable[ProgressStatus], with_room: Collection[ReplicaId]
) -> ReplicaId:
    """Who should lead instead of this leader, if the group is at rest and that one could at once; else 0.

    A node without room would only hand leadership back.
    """
    first = row.replicas[0].replica if row.replicas else NO_REPLICA
    if first in (own, NO_REPLICA) or first not in with_room or not row.is_settled():
        return NO_REPLICA
    status = next((status for status in progress if status.replica == first), None)
    if status is None or status.is_learner or not _is_filled(status, status.match):
        return NO_REPLICA
    return first


@final
@dataclass(slots=True)
class _Birthplace:
    """How far the log of the meta group reached here when this process first saw it."""

    replica: ReplicaId
    last_index: Index
    last_term: Term


@final
@dataclass(slots=True)
class _Look:
    """The last look at all groups that left nothing to do, by the engine's count of changes *before* it: what the look
    itself set off is a change."""

    changes: int = -1
    at_ms: int = 0

    def holds(self, changes: int, now_ms: int) -> bool:
        return changes == self.changes and now_ms - self.at_ms < LOOK_EVERY_MS


@final
@dataclass
class Placement:
    """Carries the decisions out on an engine. `report` takes commands to the meta leader, or loses them."""

    engine: Engine
    me: NodeRow
    report: Callable[[Sequence[Command]], None]
    set_address: Callable[[NodeId, str], None]
    problems: tuple[str, ...] = ()
    _births: set[ReplicaId] = field(default_factory=set)
    _newborn: list[GroupId] = field(default_factory=list)
    _birthplace: _Birthplace | None = None
    _reported_ms: dict[Command, int] = field(default_factory=dict)
    _fit_since_ms: dict[GroupId, int] = field(default_factory=dict)
    _seen: tuple[int, int] = (-1, -1)
    _compared: _Look = field(default_factory=_Look)
    _started: _Look = field(default_factory=_Look)
    _settings_due: bool = True
    _addresses: dict[NodeId, str] = field(default_factory=dict)

    def catalogue(self) -> Catalogue | None:
        """The applied catalogue of this node, or None where no replica of the meta group is here."""
        replica = self.engine.replicas.get(META_GROUP)
        return None if replica is None else cast("Catalogue", replica.machine)

    def create(self, creation: Creation) -> None:
        """Create a replica with the next commit, once."""
        if creation.replica in self._births or creation.replica in self.engine.store.replicas:
            return
        self._births.add(creation.replica)
        logger.info("replica_created group=%d replica=%d", creation.group, creation.replica)
        self.engine.create_replica(
            creation.group,
            creation.replica,
            ConfState(voters=creation.voters),
            self._on_born,
        )

    def _on_born(self, replica: Replica) -> None:
        self._births.discard(replica.id)
        self._newborn.append(replica.group)
        self._settings_due = True
        # At once, not with the next round: until then nothing can be received from it.
        meta = self.engine.replicas.get(META_GROUP)
        if meta is not None and self.is_current(meta):
            catalogue = cast("Catalogue", meta.machine)
            row = catalogue.group(replica.group)
            if row is not None:
                self._apply_settings(catalogue, row)

    def first_leaders(self, now_ms: int) -> None:
        """Do not let the members of a new group wait for each other: the first of them asks for votes at once.

        Nothing but time is won: who asks goes through a pre-vote, and whoever is later does what it would have done.
        A sole voter has nobody to wait for, at any start.
        """
        newborn, self._newborn = self._newborn, []
        changes = self.engine.changes
        if self._started.holds(changes, now_ms):
            return
        self._started = _Look(changes, now_ms)
        for group, replica in self.engine.replicas.items():
            voters = replica.conf.voters
            first = voters == (replica.id,) or (group in newborn and voters[:1] == (replica.id,))
            idle = replica.core.role is Role.FOLLOWER and replica.leader == NO_REPLICA and not replica.log.is_damaged
            if first and idle:
                replica.campaign()

    def is_current(self, replica: Replica) -> bool:
        """Whether the applied catalogue is at least as new as any that this data directory acted on before.

        A restarted node applies its log again, and passes through states that it had left. A replica of the meta
        group that came in an old one's place starts from nothing; it is a voter only once it was caught up.
        """
        log = replica.log
        if self._birthplace is None or self._birthplace.replica != replica.id:
            self._birthplace = _Birthplace(replica.id, log.last_index(), log.term(log.last_index()))
        start, machine = self._birthplace, replica.machine
        caught_up = machine.applied_index >= start.last_index or machine.applied_term > start.last_term
        return caught_up and replica.id in replica.conf.voters

    def reconcile(self, now_ms: int) -> None:
        """Compare everything, where anything may be to do; call when the catalogue changed, and once in a while."""
        changes = self.engine.changes
        if self._compared.holds(changes, now_ms):
            return
        self._compared = _Look()
        replica = self.engine.replicas.get(META_GROUP)
        if replica is None:
            self.problems = tuple(
                f"replica {lost} is lost and waits for its replacement: {why}" for lost, why in self.engine.lost.items()
            )
            return
        # Noted before anything is applied on top of what was found at the start.
        is_current = self.is_current(replica)
        catalogue = cast("Catalogue", replica.machine)
        seen = (replica.id, catalogue.epoch)
        if seen != self._seen:
            self._seen = seen
            self._set_routes(catalogue)
            self._settings_due = True
        if not is_current or not catalogue.is_bootstrapped:
            return
        if self._settings_due:
            # Of a state that is current alone: an older one may say a shorter retention than holds by now.
            self._settings_due = False
            self._set_settings(catalogue)
        is_busy = self._do_duties(catalogue, now_ms)
        is_busy |= self._lead(catalogue, now_ms)
        if not is_busy:
            self._compared = _Look(changes, now_ms)

    def lost_replicas(self) -> tuple[ReplicaId, ...]:
        return tuple(self.engine.lost)

    def _set_routes(self, catalogue: Catalogue) -> None:
        for node in catalogue.nodes():
            # Only what is new here: a node may have told its links of another address since.
            if node.node != self.me.node and node.peer_address != self._addresses.get(node.node, ""):
                self._addresses[node.node] = node.peer_address
                self.set_address(node.node, node.peer_address)
        for group in catalogue.groups():
            for row in group.replicas:
                self.engine.set_route(row.replica, row.node)

    def _set_settings(self, catalogue: Catalogue) -> None:
        self.engine.is_deleted = catalogue.is_deleted
        self.engine.homes = catalogue.homes
        for group in catalogue.groups():
            self._apply_settings(catalogue, group)

    def _apply_settings(self, catalogue: Catalogue, group: GroupRow) -> None:
        service, queue = self.engine.services.get(group.group), catalogue.queue_of_id(group.queue_id)
        if queue is not None and isinstance(service, PartitionService):
            service.settings = partition_settings(catalogue, queue, group.partition)

    def _do_duties(self, catalogue: Catalogue, now_ms: int) -> bool:
        """True where there was something to do or to say."""
        engine = self.engine
        held = {stored.log.replica: stored.log.group for stored in engine.store.replicas.values()}
        held |= {replica: GroupId(-1) for replica in self._births if replica not in held}
        duties = decide_duties(catalogue, self.me.node, self.me.incarnation, held=held, lost=engine.lost)
        self.problems = duties.problems
        for creation in duties.create:
            self.create(creation)
        for replica in duties.remove:
            self._remove(replica)
        report = list(duties.report)
        if catalogue.node(self.me.node) != self.me:
            # Moved to another address; the incarnation is the same, or this node would have no replica here.
            report.append(JoinNode(self.me))
        self._report(report, now_ms)
        return bool(duties.create or duties.remove or report)

    def _remove(self, replica: ReplicaId) -> None:
        engine = self.engine
        live = any(held.id == replica for held in engine.replicas.values())
        if live or replica in engine.lost:
            logger.info("replica_removed replica=%d", replica)
            engine.remove_replica(replica)

    def _lead(self, catalogue: Catalogue, now_ms: int) -> bool:
        """True where a group is not yet as its row says, or not led by its first replica: both wait for more than what
        the engine counts, like a follower that answers, or a node with room."""
        is_busy = False
        for row in catalogue.groups():
            replica = self.engine.replicas.get(row.group)
            if replica is None or not replica.is_serving:
                self._fit_since_ms.pop(row.group, None)
                continue
            if row.is_settled() and set(replica.conf.members()) == {held.replica for held in row.replicas}:
                is_busy |= self._balance(row, replica, now_ms)
            else:
                self._step(row, replica, now_ms)
                is_busy = True
        return is_busy

    def _step(self, row: GroupRow, replica: Replica, now_ms: int) -> None:
        step = decide_step(
            row,
            own=replica.id,
            conf=replica.conf,
            progress=replica.core.progress(),
            last_index=replica.core.last_index,
        )
        self._report(step.report, now_ms)
        if step.hands_over:
            replica.hand_over()
        elif step.change is not None:
            try:
                replica.propose_config(step.change)
            except (ProposalRefused, LogBrokerError) as error:
                # One is under way, or leadership is: the next round sees what came of it.
                logger.debug("config_change_waits group=%d reason=%r", row.group, error.message)
            else:
                logger.info("config_change group=%d changes=%s", row.group, _describe(step.change))

    def _balance(self, row: GroupRow, replica: Replica, now_ms: int) -> bool:
        """Leadership goes to the first replica of the row, so that nodes share the work; True while it is elsewhere.

        Nearly all groups are where they belong: their progress need not be copied at every round.
        """
        if not row.replicas or row.replicas[0].replica == replica.id:
            self._fit_since_ms.pop(row.group, None)
            return False
        target = preferred_leader(
            row, own=replica.id, progress=replica.core.progress(), with_room=self.engine.others_with_room(replica)
        )
        if target == NO_REPLICA:
            self._fit_since_ms.pop(row.group, None)
            return True
        since_ms = self._fit_since_ms.setdefault(row.group, now_ms)
        if now_ms - since_ms >= BALANCE_AFTER_MS:
            self._fit_since_ms[row.group] = now_ms
            try:
                replica.transfer_leadership(target)
            except LogBrokerError as error:
                logger.debug("transfer_refused group=%d reason=%r", row.group, error.message)
        return True

    def _report(self, commands: Sequence[Command], now_ms: int) -> None:
        """Say it, but not at every round: the catalogue takes a while to show it."""
        due = [command for command in commands if now_ms - self._reported_ms.get(command, -1 << 62) >= REPORT_EVERY_MS]
        if due:
            if len(self._reported_ms) > 1_000:
                self._reported_ms.clear()
            self._reported_ms.update(dict.fromkeys(due, now_ms))
            self.report(due)


def _describe(proposal: ConfigProposal) -> str:
    return ",".join(f"{change.kind.name}:{change.replica}" for change in proposal.changes)
