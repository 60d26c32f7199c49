"""Heartbeats of all groups of a node, packed into one message for each peer, and their answers.

Most groups of a large node are idle, so that one tick's heartbeats are the last tick's. While nothing changed on this
node they are recognised as a whole: sent again as they were, taken by marking what they had marked, and answered at
the next tick with the same answer. A pack that was recognised counts for nothing more once the engine's count of
changes has moved; and every so often everything is looked at in any case, for a change that was not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from logbroker.node.peer_messages import HeartbeatAnswers, Heartbeats
from logbroker.raft.core import RaftCore
from logbroker.raft.messages import Message, MessageKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from logbroker.ids import GroupId, NodeId, ReplicaId
    from logbroker.node.peer_messages import BeatAnswerRow, BeatRow, PeerMessage
    from logbroker.node.replica import Replica

WHOLE_TICKS = 10
"""After so many ticks at the most each heartbeat is looked at by itself again."""


@final
@dataclass(frozen=True, slots=True)
class _Sent:
    """What the leaders of this node told each other node, as of a count of changes."""

    changes: int
    leaders: Sequence[Replica]
    messages: Sequence[tuple[NodeId, Heartbeats]]


_NOTHING_SENT = _Sent(-1, (), ())


@final
@dataclass(frozen=True, slots=True)
class _Taken:
    """Heartbeats of one node, all of which brought nothing new."""

    changes: int
    rows: Sequence[BeatRow]
    followers: Sequence[RaftCore]
    answer: HeartbeatAnswers


@final
@dataclass(frozen=True, slots=True)
class _Answered:
    """Answers of one node, all from followers that lack nothing; each with the leader that it is for."""

    changes: int
    rows: Sequence[BeatAnswerRow]
    leaders: Sequence[tuple[RaftCore, ReplicaId]]


@final
class HeartbeatPacks:
    """Reads `replicas` and `routes`, which are the engine's; what is no plain heartbeat goes through `deliver`.

    `changes` counts what may have made a replica or a route another one: equal counts, equal replicas and routes, but
    for what ticks and heartbeats themselves do (election timers, and which followers were heard).
    """

    def __init__(
        self,
        replicas: Mapping[GroupId, Replica],
        routes: Mapping[ReplicaId, NodeId],
        *,
        changes: Callable[[], int],
        is_home: Callable[[ReplicaId, NodeId], bool],
        send: Callable[[NodeId, PeerMessage], None],
        deliver: Callable[[NodeId, GroupId, Message], None],
    ) -> None:
        self._replicas = replicas
        self._routes = routes
        self._changes = changes
        self._is_home = is_home
        self._send = send
        self._deliver = deliver
        self._ticks = 0
        self._sent = _NOTHING_SENT
        self._taken: dict[NodeId, _Taken] = {}
        self._answered: dict[NodeId, _Answered] = {}
        self._owed: dict[NodeId, HeartbeatAnswers] = {}

    def send(self, leaders: Sequence[Replica]) -> None:
        """Send what these leaders, whose heartbeats are due, have to tell; once a tick.

        Nothing of a leader is looked at where its pack is the last one again.
        """
        self._ticks += 1
        if self._ticks % WHOLE_TICKS == 0:
            self._sent = _NOTHING_SENT
            self._taken.clear()
            self._answered.clear()
        sent = self._sent
        if sent.changes != self._changes() or sent.leaders != leaders:
            sent = self._sent = _Sent(self._changes(), leaders, self._pack(leaders))
        for node, message in sent.messages:
            self._send(node, message)
        if self._owed:
            owed, self._owed = self._owed, {}
            for node, answer in owed.items():
                self._send(node, answer)

    def _pack(self, leaders: Sequence[Replica]) -> list[tuple[NodeId, Heartbeats]]:
        beats: dict[NodeId, list[BeatRow]] = {}
        routes = self._routes
        for replica in leaders:
            group, sender, term = replica.group, replica.id, replica.core.term
            for to, commit in replica.core.take_beats():
                node = routes.get(to)
                if node is not None:
                    beats.setdefault(node, []).append((group, sender, to, term, commit))
        return [(node, Heartbeats(tuple(rows))) for node, rows in beats.items()]

    def take(self, sender: NodeId, rows: Sequence[BeatRow]) -> None:
        """Heartbeats of a node: one that brings nothing new costs no more than a look; any other is stepped."""
        # Counted before anything is stepped: what that changes ends what is remembered here.
        changes, routes = self._changes(), self._routes
        known = self._taken.get(sender)
        if known is not None and known.changes == changes and known.rows == rows:
            RaftCore.on_same_beats(known.followers)
            # It goes along with this node's own next pack, so that idle nodes are woken half as often. To the leader a
            # tick more is a slow network.
            self._owed[sender] = known.answer
            return
        followers: list[RaftCore] = []
        answers: list[BeatAnswerRow] = []
        for group, leader, to, term, commit in rows:
            replica = self._replicas.get(group)
            if replica is None or replica.id != to or replica.failed is not None:
                continue
            if routes.get(leader) != sender and not self._is_home(leader, sender):
                continue
            if replica.core.on_beat(leader, term, commit):
                followers.append(replica.core)
                answers.append((group, to, leader, term))
            else:
                self._deliver(sender, group, Message(MessageKind.HEARTBEAT, to, leader, term, commit=commit))
        if answers:
            answer = HeartbeatAnswers(tuple(answers))
            self._send(sender, answer)
            if len(answers) == len(rows):
                self._taken[sender] = _Taken(changes, rows, followers, answer)

    def take_answers(self, sender: NodeId, rows: Sequence[BeatAnswerRow]) -> None:
        """Answers of a node's followers, as `take`."""
        changes, routes = self._changes(), self._routes
        known = self._answered.get(sender)
        if known is not None and known.changes == changes and known.rows == rows:
            RaftCore.on_same_answers(known.leaders)
            return
        leaders: list[tuple[RaftCore, ReplicaId]] = []
        for group, follower, to, term in rows:
            replica = self._replicas.get(group)
            if replica is None or replica.id != to or replica.failed is not None:
                continue
            if routes.get(follower) != sender and not self._is_home(follower, sender):
                continue
            if replica.core.on_beat_answer(follower, term):
                leaders.append((replica.core, follower))
            else:
                self._deliver(sender, group, Message(MessageKind.HEARTBEAT_RESPONSE, to, follower, term))
        if len(leaders) == len(rows):
            self._answered[sender] = _Answered(changes, rows, leaders)
