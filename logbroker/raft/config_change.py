"""Changes of a group's membership, as pure functions from one `ConfState` to the next (thesis 4.3).

A *simple* change moves at most one voter, so old and new majorities overlap by themselves. Anything
else goes through a *joint* state, in which majorities of the old and of the new voters are needed.
When a change takes effect, and that only one is under way, is not decided here (see `membership`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError, InvalidArgumentError
from logbroker.ids import NO_REPLICA, ReplicaId
from logbroker.raft.messages import MAX_MEMBERS, ConfState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@final
class ChangeKind(IntEnum):
    """The numbers are part of the payload of a CONFIG entry."""

    ADD_VOTER = 1
    ADD_LEARNER = 2
    REMOVE = 3


@final
class Transition(IntEnum):
    """How a proposal of more than one change is carried out. The numbers are part of the payload."""

    AUTO = 0
    """Simple if it is a single change, else as IMPLICIT."""
    IMPLICIT = 1
    """Joint; the leader leaves the joint state by itself once it is applied."""
    EXPLICIT = 2
    """Joint; somebody proposes the empty change to leave."""


@final
class ConfigFault(IntEnum):
    """Why a change cannot be made to a configuration."""

    ALREADY_JOINT = 1
    NOT_JOINT = 2
    NO_VOTERS_TO_JOIN = 3
    SIMPLE_IN_JOINT = 4
    MORE_THAN_ONE_VOTER = 5
    NO_VOTERS_LEFT = 6
    INCONSISTENT = 7
    TOO_MANY_MEMBERS = 8


class ConfigChangeError(InvalidArgumentError):
    """The change does not fit the configuration; `fault` says which rule it breaks."""

    def __init__(self, fault: ConfigFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@final
@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One step. Replica 0 stands for a step that was struck out and does nothing."""

    kind: ChangeKind
    replica: ReplicaId


@final
@dataclass(frozen=True, slots=True)
class ConfigProposal:
    """The payload of a CONFIG entry. Without changes it leaves the joint state.

    `context` belongs to the proposer; the core hands it through.
    """

    changes: tuple[ConfigChange, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""

    @property
    def is_leave(self) -> bool:
        return not self.changes

    @property
    def is_joint(self) -> bool:
        return self.transition is not Transition.AUTO or len(self.changes) > 1

    def encode(self) -> bytes:
        steps = b"".join(_STEP.pack(change.kind, change.replica) for change in self.changes)
        return _HEAD.pack(_VERSION, self.transition, len(self.changes)) + steps + self.context

    @classmethod
    def decode(cls, data: bytes) -> ConfigProposal:
        """Read what `encode` wrote.

        Raises:
            CorruptBatchError: another version, an unknown kind, or too few bytes, for any bytes.
        """
        if len(data) < _HEAD.size:
            raise CorruptBatchError(f"change of {len(data)} bytes is shorter than its head of {_HEAD.size}")
        version, transition, count = _HEAD.unpack_from(data)
        end = _HEAD.size + count * _STEP.size
        if version != _VERSION or count > MAX_MEMBERS or len(data) < end:
            raise CorruptBatchError(f"change of {len(data)} bytes has version {version} and {count} steps")
        try:
            changes = tuple(
                ConfigChange(ChangeKind(kind), ReplicaId(replica))
                for kind, replica in _STEP.iter_unpack(data[_HEAD.size : end])
            )
            return cls(changes, Transition(transition), bytes(data[end:]))
        except ValueError as error:
            raise CorruptBatchError(f"change of configuration: {error}") from error


_VERSION = 1
_HEAD = struct.Struct(">BBH")
_STEP = struct.Struct(">BQ")


def change_config(conf: ConfState, proposal: ConfigProposal) -> ConfState:
    """The configuration after `proposal`.

    Raises:
        ConfigChangeError: it does not fit.
    """
    if proposal.is_leave:
        return leave_joint(conf)
    if proposal.is_joint:
        return enter_joint(conf, proposal.changes, auto_leave=proposal.transition is not Transition.EXPLICIT)
    return simple(conf, proposal.changes)


def simple(conf: ConfState, changes: Sequence[ConfigChange]) -> ConfState:
    """Make changes that move at most one voter in all."""
    check_config(conf)
    if conf.is_joint:
        raise ConfigChangeError(ConfigFault.SIMPLE_IN_JOINT, f"{conf} is joint; leave that state first")
    draft = _Draft(conf)
    draft.make(changes)
    moved = draft.voters.symmetric_difference(conf.voters)
    if len(moved) > 1:
        raise ConfigChangeError(
            ConfigFault.MORE_THAN_ONE_VOTER, f"voters {sorted(moved)} move at once, which needs a joint change"
        )
    return draft.finish()


def enter_joint(conf: ConfState, changes: Sequence[ConfigChange], *, auto_leave: bool) -> ConfState:
    """Keep the present voters as the outgoing ones and make any changes to the incoming."""
    check_config(conf)
    if conf.is_joint:
        raise ConfigChangeError(ConfigFault.ALREADY_JOINT, f"{conf} is joint already")
    if not conf.voters:
        raise ConfigChangeError(ConfigFault.NO_VOTERS_TO_JOIN, "a group without voters cannot enter a joint state")
    draft = _Draft(conf)
    draft.outgoing = set(conf.voters)
    draft.make(changes)
    draft.auto_leave = auto_leave
    return draft.finish()


def leave_joint(conf: ConfState) -> ConfState:
    """Let the incoming voters decide alone; demoted voters become learners."""
    check_config(conf)
    if not conf.is_joint:
        raise ConfigChangeError(ConfigFault.NOT_JOINT, f"{conf} is not joint")
    draft = _Draft(conf)
    draft.learners |= draft.learners_next
    draft.learners_next = set()
    draft.outgoing = set()
    draft.auto_leave = False
    return draft.finish()


def check_config(conf: ConfState) -> None:
    """Hold a configuration to the rules that every change keeps. The empty one is legal: it is the first.

    Raises:
        ConfigChangeError: a replica has two parts, or joint-only fields are set outside a joint state.
    """
    voters, outgoing, learners = set(conf.voters), set(conf.voters_outgoing), set(conf.learners)
    if learners & (voters | outgoing):
        raise ConfigChangeError(ConfigFault.INCONSISTENT, f"{conf}: a replica is learner and voter")
    if not outgoing.issuperset(conf.learners_next):
        raise ConfigChangeError(ConfigFault.INCONSISTENT, f"{conf}: a next learner is no outgoing voter")
    if voters.intersection(conf.learners_next):
        raise ConfigChangeError(ConfigFault.INCONSISTENT, f"{conf}: a next learner is an incoming voter")
    if conf.auto_leave and not outgoing:
        raise ConfigChangeError(ConfigFault.INCONSISTENT, f"{conf}: auto leave outside a joint state")


@final
class _Draft:
    """A configuration being changed."""

    def __init__(self, conf: ConfState) -> None:
        self.voters = set(conf.voters)
        self.outgoing = set(conf.voters_outgoing)
        self.learners = set(conf.learners)
        self.learners_next = set(conf.learners_next)
        self.auto_leave = conf.auto_leave

    def make(self, changes: Iterable[ConfigChange]) -> None:
        for change in changes:
            if change.replica == NO_REPLICA:
                continue
            self._drop(change.replica)
            if change.kind is ChangeKind.ADD_VOTER:
                self.voters.add(change.replica)
            elif change.kind is ChangeKind.ADD_LEARNER:
                # Nobody is voter and learner at once: an outgoing voter waits until the joint state is left.
                waits = change.replica in self.outgoing
                (self.learners_next if waits else self.learners).add(change.replica)
        if not self.voters:
            raise ConfigChangeError(ConfigFault.NO_VOTERS_LEFT, "the change leaves no voter")

    def _drop(self, replica: ReplicaId) -> None:
        for part in (self.voters, self.learners, self.learners_next):
            part.discard(replica)

    def finish(self) -> ConfState:
        conf = ConfState(
            tuple(sorted(self.voters)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.learners_next)),
            self.auto_leave,
        )
        if len(conf.members()) > MAX_MEMBERS:
            raise ConfigChangeError(
                ConfigFault.TOO_MANY_MEMBERS, f"{len(conf.members())} members are more than {MAX_MEMBERS}"
            )
        check_config(conf)
        return conf
