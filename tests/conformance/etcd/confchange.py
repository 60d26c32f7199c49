"""`simple`, `enter-joint`, `leave-joint`: the resulting configuration and the progress of each member.

Errors are compared as etcd words them; ours are told apart by their `fault`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from logbroker.ids import Index, ReplicaId
from logbroker.raft.config_change import (
    ChangeKind,
    ConfigChange,
    ConfigChangeError,
    ConfigFault,
    enter_joint,
    leave_joint,
    simple,
)
from logbroker.raft.progress import ProgressState
from logbroker.raft.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logbroker.raft.messages import ConfState
    from logbroker.raft.progress import Progress
    from tests.conformance.etcd.datadriven import Case

FAULT_TEXT: Final = {
    ConfigFault.ALREADY_JOINT: "config is already joint",
    ConfigFault.NOT_JOINT: "can't leave a non-joint config",
    ConfigFault.NO_VOTERS_TO_JOIN: "can't make a zero-voter config joint",
    ConfigFault.SIMPLE_IN_JOINT: "can't apply simple config change in joint config",
    ConfigFault.MORE_THAN_ONE_VOTER: "more than one voter changed without entering joint config",
    ConfigFault.NO_VOTERS_LEFT: "removed all voters",
}
STATE_TEXT: Final = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}
_KINDS: Final = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE}


def parse_changes(text: str) -> list[ConfigChange]:
    """Read `v1 l2 r3`; `u4`, an update of something outside of Raft, is a step that does nothing."""
    return [
        ConfigChange(_KINDS.get(token[0], ChangeKind.REMOVE), ReplicaId(0 if token[0] == "u" else int(token[1:])))
        for token in text.split()
    ]


def describe_config(conf: ConfState) -> str:
    text = f"voters={_describe_ids(conf.voters)}"
    if conf.voters_outgoing:
        text += f"&&{_describe_ids(conf.voters_outgoing)}"
    if conf.learners:
        text += f" learners={_describe_ids(conf.learners)}"
    if conf.learners_next:
        text += f" learners_next={_describe_ids(conf.learners_next)}"
    return text + (" autoleave" if conf.auto_leave else "")


def _describe_ids(ids: Iterable[ReplicaId]) -> str:
    return "(" + " ".join(f"{replica:x}" for replica in ids) + ")"


def describe_progress(replica: ReplicaId, progress: Progress) -> str:
    text = f"{replica}: {STATE_TEXT[progress.state]} match={progress.match} next={progress.next}"
    if progress.is_learner:
        text += " learner"
    if progress.is_paused:
        text += " paused"
    if progress.pending_snapshot:
        text += f" pendingSnap={progress.pending_snapshot}"
    if not progress.recent_active:
        text += " inactive"
    if progress.inflights:
        text += f" inflight={len(progress.inflights)}" + ("[full]" if progress.inflights.is_full else "")
    return text


@final
class ConfigScript:
    """One file: changes follow one another, and each directive counts as one entry of the log."""

    def __init__(self) -> None:
        self._tracker = Tracker(max_inflight_messages=10, max_inflight_bytes=1 << 20)
        self._last_index = 0

    def run(self, case: Case) -> str:
        try:
            conf = self._change(case)
        except ConfigChangeError as error:
            return FAULT_TEXT.get(error.fault, error.message)
        else:
            self._tracker.switch(conf, last_index=Index(self._last_index))
            lines = [describe_progress(replica, progress) for replica, progress in self._tracker.progress.items()]
            return "\n".join([describe_config(conf), *lines])
        finally:
            self._last_index += 1

    def _change(self, case: Case) -> ConfState:
        changes = parse_changes(case.input)
        conf = self._tracker.conf
        match case.command:
            case "simple":
                return simple(conf, changes)
            case "enter-joint":
                return enter_joint(conf, changes, auto_leave=case.flag("autoleave"))
            case "leave-joint":
                return leave_joint(conf)
            case _:
                raise ValueError(f"{case.place}: unknown command {case.command}")
