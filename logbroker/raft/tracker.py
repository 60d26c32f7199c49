"""The members of a group as one replica sees them: the active configuration, progress and votes.

Progress means something on the leader alone, but is kept in every role: who is a member is asked
everywhere.
"""

from __future__ import annotations

from typing import final

from logbroker.ids import Index, ReplicaId
from logbroker.raft.config_change import check_config
from logbroker.raft.messages import ConfState
from logbroker.raft.progress import Inflights, Progress
from logbroker.raft.quorum import VoteResult, joint_index, joint_vote_result


@final
class Tracker:
    """`progress` is in ascending order of replica, so that messages leave in a fixed order."""

    __slots__ = ("_max_inflight_bytes", "_max_inflight_messages", "conf", "progress", "votes")

    def __init__(self, *, max_inflight_messages: int, max_inflight_bytes: int) -> None:
        self._max_inflight_messages = max_inflight_messages
        self._max_inflight_bytes = max_inflight_bytes
        self.conf = ConfState()
        self.progress: dict[ReplicaId, Progress] = {}
        self.votes: dict[ReplicaId, bool] = {}

    def _new_progress(self, next_index: Index, *, is_learner: bool, recent_active: bool) -> Progress:
        window = Inflights(max_count=self._max_inflight_messages, max_bytes=self._max_inflight_bytes)
        return Progress(next_index, window, is_learner=is_learner, recent_active=recent_active)

    def switch(self, conf: ConfState, *, last_index: Index) -> None:
        """Make `conf` the active configuration. Whoever stays keeps its progress.

        A new member is first probed at the end of the leader's log: it has nothing yet and will say so,
        or was filled from outside and needs nothing older.

        Raises:
            ConfigChangeError: `conf` breaks a rule of configurations.
        """
        check_config(conf)
        progress: dict[ReplicaId, Progress] = {}
        for replica in conf.members():
            is_learner = replica in conf.learners
            known = self.progress.get(replica)
            if known is None:
                known = self._new_progress(Index(max(last_index, 1)), is_learner=is_learner, recent_active=True)
            known.is_learner = is_learner
            progress[replica] = known
        self.conf = conf
        self.progress = progress

    def reset(self, *, last_index: Index) -> None:
        """Forget progress and votes: a new term or role begins."""
        self.votes = {}
        for replica, old in self.progress.items():
            self.progress[replica] = self._new_progress(
                Index(last_index + 1), is_learner=old.is_learner, recent_active=False
            )

    def is_voter(self, replica: ReplicaId) -> bool:
        return replica in self.conf.voters or replica in self.conf.voters_outgoing

    def voters(self) -> list[ReplicaId]:
        return sorted({*self.conf.voters, *self.conf.voters_outgoing})

    @property
    def is_singleton(self) -> bool:
        """One voter decides alone."""
        return len(self.conf.voters) == 1 and not self.conf.voters_outgoing

    def committed_index(self) -> Index:
        """What enough voters have made durable; whether it may be committed is for the term rule to say."""
        progress = self.progress
        return joint_index(
            [progress[replica].match for replica in self.conf.voters],
            [progress[replica].match for replica in self.conf.voters_outgoing],
        )

    def record_vote(self, replica: ReplicaId, *, granted: bool) -> VoteResult:
        """Count one answer, the first of each replica, and give the state of the election."""
        self.votes.setdefault(replica, granted)
        return joint_vote_result(self.conf.voters, self.conf.voters_outgoing, self.votes)

    def is_quorum_active(self) -> bool:
        active = {replica: progress.recent_active for replica, progress in self.progress.items()}
        return joint_vote_result(self.conf.voters, self.conf.voters_outgoing, active) is VoteResult.WON
