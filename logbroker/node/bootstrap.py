"""The first boot: how nodes that know only each other's addresses become one cluster, or join the one that is there.

Pure: messages and ticks in; what to make durable and what to send out. The rules, each of which closes a way to two
clusters or to a voter with a forgotten vote:

- The node with the lowest id (of those not left out) is the *asker*, and it asks all. It makes its cluster id durable
  before it asks. Nobody else ever founds a cluster.
- A promise is durable before it is given. It binds to one cluster id of one life of the asker. It may pass to another
  life of the same asker, or to an operator's word, until the record has come.
- Once all have promised the asker makes the record durable and sends it. Who has recorded a cluster gives it up only
  for another one of the very same life of the same asker, which is the only one that can have founded it.
- Once all have recorded, and not before, the asker makes *founded* durable and says so. Only a founded node creates its
  replica of the meta group, and only one that the record names with this life of its data directory.
- Whoever sees a member while it is none itself asks to join. Such a node has never created a replica, so joining can
  make it no promise-breaker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, assert_never, final

from logbroker.errors import InvalidArgumentError
from logbroker.ids import NO_REPLICA, NodeId, ReplicaId
from logbroker.node.catalogue import meta_replicas
from logbroker.node.catalogue.commands import Bootstrap
from logbroker.node.cluster_file import ClusterState
from logbroker.node.cluster_messages import (
    Ask,
    ClusterMessage,
    Join,
    Joined,
    Phase,
    Promise,
    Record,
    Recorded,
    Refusal,
    Report,
    Standing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from logbroker.node.catalogue.rows import NodeRow, ReplicaRow

Send: TypeAlias = tuple[NodeId, ClusterMessage]


@final
@dataclass(frozen=True, slots=True)
class FirstBoot:
    """What the configuration says: the cluster's name and nodes, this one included, and whom an operator left out."""

    name: str
    nodes: tuple[NodeId, ...]
    without: tuple[NodeId, ...] = ()

    @property
    def taking_part(self) -> tuple[NodeId, ...]:
        return tuple(sorted(node for node in self.nodes if node not in self.without))

    @property
    def is_majority(self) -> bool:
        return 2 * len(self.taking_part) > len(self.nodes)


@final
@dataclass(frozen=True, slots=True)
class Step:
    """What one input came to. `save` is made durable before anything is sent and before the next input."""

    save: ClusterState | None = None
    sends: tuple[Send, ...] = ()


NOTHING = Step()


@final
@dataclass(frozen=True, slots=True)
class MetaSeed:
    """The replica of the meta group that this node is to create, and where the others are."""

    replica: ReplicaId
    voters: tuple[ReplicaId, ...]
    replicas: tuple[ReplicaRow, ...]
    nodes: tuple[NodeRow, ...]


@final
class FirstBootMachine:
    """One node's part. `me` is what the record is to say of it; ids of clusters come from `new_cluster_id`."""

    def __init__(self, plan: FirstBoot, me: NodeRow, state: ClusterState, new_cluster_id: Callable[[], bytes]) -> None:
        self.state = state
        self.has_meta = False
        """A replica of the meta group is here, so the catalogue itself says everything else."""
        self.lost: tuple[ReplicaId, ...] = ()
        self._me = me
        # A word that was given while the node ran holds over a restart.
        keeps_word = self._is_own(state) and bool(state.without) and not plan.without
        self._plan = replace(plan, without=state.without) if keeps_word else plan
        self._new_cluster_id = new_cluster_id
        self._peers: dict[NodeId, bytes] = {}
        self._standings: dict[NodeId, Standing] = {}
        self._promises: dict[NodeId, NodeRow] = {}
        self._recorded: set[NodeId] = set()
        self._refusals: dict[NodeId, str] = {}
        self._joined: Joined | None = None

    @property
    def is_member(self) -> bool:
        return self.state.phase.is_member

    # Inputs.

    def leave_out(self, nodes: Collection[NodeId]) -> None:
        """An operator's word: the first boot goes without these nodes. It takes effect with the next tick.

        Raises:
            InvalidArgumentError: it does not fit, or is not for this node.
        """
        plan = left_out(self._plan, nodes, own=self._me.node)
        if self.is_member:
            raise InvalidArgumentError(f"node {self._me.node} belongs to cluster {self.state.cluster_id.hex()} already")
        if not plan.is_majority:
            raise InvalidArgumentError(
                f"nodes {list(plan.taking_part)} are no majority of {list(plan.nodes)}",
                hint="wait for one more node, or configure a smaller cluster",
            )
        if plan.taking_part[0] != self._me.node:
            raise InvalidArgumentError(f"without these, node {plan.taking_part[0]} founds the cluster: say it there")
        self._plan = plan

    def on_peer(self, node: NodeId, incarnation: bytes) -> Step:
        """A link to a node is up; what it said in an earlier life is forgotten."""
        if self._peers.get(node) != incarnation:
            self._forget(node)
        self._peers[node] = incarnation
        return Step(sends=((node, self._standing()),))

    def on_peer_gone(self, node: NodeId) -> None:
        self._peers.pop(node, None)
        self._standings.pop(node, None)

    def on_tick(self) -> Step:
        """Time passed: say again what was not answered. Ask again at once after a step that saves."""
        state = self.state
        if state.phase.is_member:
            return self._seek_meta()
        members = [node for node, standing in self._standings.items() if standing.phase.is_member]
        if members:
            return self._enter(members)
        if self._plan.taking_part[:1] == (self._me.node,):
            return self._found()
        return Step(sends=self._to_all(self._standing()))

    def on_message(self, sender: NodeId, incarnation: bytes, message: ClusterMessage) -> Step:
        """A message that came from `sender`, whose link named this `incarnation`."""
        if self._peers.get(sender) != incarnation:
            self._forget(sender)
            self._peers[sender] = incarnation
        match message:
            case Standing():
                return self._on_standing(sender, message)
            case Ask():
                return self._on_ask(sender, incarnation, message)
            case Promise():
                return self._on_promise(sender, incarnation, message)
            case Refusal():
                self._refusals[sender] = message.why
                return NOTHING
            case Record():
                return self._on_record(sender, incarnation, message.record)
            case Recorded():
                return self._on_recorded(sender, incarnation, message)
            case Join():
                # A member's meta leader answers; here it only matters that the sender learns who is none.
                return NOTHING if self.is_member else Step(sends=((sender, self._standing()),))
            case Joined():
                return self._on_joined(message)
            case Report():
                return NOTHING
            case _ as never:
                assert_never(never)

    def on_meta_replica(self, replica: ReplicaId) -> Step:
        """A replica of the meta group is durable here: that one and older ones are never created again."""
        self.has_meta = True
        if replica <= self.state.meta_replica:
            return NOTHING
        return self._save(replace(self.state, meta_replica=replica))

    def meta_seed(self) -> MetaSeed | None:
        """The replica of the meta group to create here, if a word that names this very life of the node says so."""
        if not self.is_member or self.has_meta:
            return None
        joined, record = self._joined, self.state.record
        if joined is not None:
            initial, rows, nodes = joined.meta.initial, joined.meta.replicas, joined.nodes
        elif record is not None:
            rows, nodes = meta_replicas(record), record.nodes
            initial = tuple(row.replica for row in rows)
        else:
            return None
        mine = max((row.replica for row in rows if self._is_me(row)), default=NO_REPLICA)
        if mine <= self.state.meta_replica:
            return None
        return MetaSeed(mine, tuple(sorted(initial)), rows, nodes)

    def founders(self) -> tuple[Sequence[ReplicaRow], Sequence[NodeRow]]:
        """The replicas that the meta group began with, and their nodes; empty where no record is held."""
        record = self.state.record
        return ((), ()) if record is None else (meta_replicas(record), record.nodes)

    def bootstrap_command(self) -> Bootstrap | None:
        """What the first leader of the meta group proposes; None on a node that was not there."""
        return self.state.record if self.state.phase is Phase.FOUNDED else None

    def problems(self) -> list[str]:
        """Why this node is not a working member yet, one sentence each; names who is missing."""
        state = self.state
        if state.phase.is_member:
            if self.has_meta or self.meta_seed() is not None:
                return []
            return [f"waits for the leader of the meta group to place this node's replicas{self._hears()}"]
        found = [f"node {node} refuses: {why}" for node, why in sorted(self._refusals.items())]
        members = {node: s for node, s in self._standings.items() if s.phase.is_member}
        if members and state.phase is Phase.RECORDED and not self._is_own(state):
            node, standing = min(members.items())
            found.append(
                f"holds the record of cluster {state.cluster_id.hex()}, and node {node} belongs to "
                f"{standing.cluster_id.hex()}: empty this node's data directory to let it join"
            )
        elif members:
            found.append(f"asks nodes {sorted(members)} to be taken into their cluster")
        elif self._plan.taking_part[:1] != (self._me.node,):
            asker = self._plan.taking_part[0]
            found.append(f"waits for node {asker} to found the cluster{self._hears()}")
        elif not self._plan.is_majority:
            found.append(
                f"no cluster is founded: nodes {list(self._plan.taking_part)} are no majority of "
                f"{list(self._plan.nodes)}"
            )
        else:
            found += [f"waits for node {node}{self._how(node)}" for node in self._missing()]
        return found

    # Founding, by the asker alone.

    def _found(self) -> Step:
        state, plan = self.state, self._plan
        if (
            state.phase is not Phase.ALONE
            and not self._is_own(state)
            and (state.phase is Phase.RECORDED or state.without)
        ):
            # Bound to somebody else's cluster by more than a bare promise: `problems` says so.
            return Step(sends=self._to_all(self._standing()))
        if not plan.is_majority:
            return NOTHING
        if state.phase is Phase.ALONE or not self._is_own(state) or state.without != plan.without:
            return self._begin_anew()
        if state.phase is Phase.RECORDED:
            return self._distribute()
        missing = self._missing()
        if not missing:
            return self._save(replace(state, phase=Phase.RECORDED, record=self._make_record()))
        asked = Ask(state.cluster_id, state.without)
        return Step(sends=tuple((node, asked) for node in missing if node in self._peers))

    def _begin_anew(self) -> Step:
        self._promises.clear()
        self._recorded.clear()
        self._refusals.clear()
        return self._save(
            ClusterState(
                Phase.PROMISED,
                self._new_cluster_id(),
                self._plan.name,
                self._me.node,
                self._me.incarnation,
                self._plan.without,
            )
        )

    def _make_record(self) -> Bootstrap:
        rows = {**self._promises, self._me.node: self._me}
        return Bootstrap(
            self.state.cluster_id,
            self._plan.name,
            tuple(rows[node] for node in self._plan.taking_part),
            self._plan.without,
        )

    def _distribute(self) -> Step:
        state = self.state
        record = state.record
        if record is None:
            return self._begin_anew()
        if any(self._peers.get(row.node, row.incarnation) != row.incarnation for row in record.nodes):
            # Somebody's disk was emptied since it promised: nobody can found that cluster any more but this node.
            return self._begin_anew()
        missing = self._missing()
        if not missing:
            founded = self._save(replace(state, phase=Phase.FOUNDED))
            return Step(founded.save, self._to_all(self._standing()))
        return Step(sends=tuple((node, Record(record)) for node in missing if node in self._peers))

    def _missing(self) -> list[NodeId]:
        have: Iterable[NodeId] = self._recorded if self.state.phase is Phase.RECORDED else self._promises
        return sorted(set(self._plan.taking_part) - {self._me.node} - set(have))

    def _on_promise(self, sender: NodeId, incarnation: bytes, message: Promise) -> Step:
        state = self.state
        fits = state.phase is Phase.PROMISED and self._is_own(state) and message.cluster_id == state.cluster_id
        if not fits or (message.row.node, message.row.incarnation) != (sender, incarnation):
            return NOTHING
        if sender not in self._plan.taking_part:
            return NOTHING
        self._promises[sender] = message.row
        self._refusals.pop(sender, None)
        return NOTHING if self._missing() else self.on_tick()

    def _on_recorded(self, sender: NodeId, incarnation: bytes, message: Recorded) -> Step:
        state = self.state
        if state.phase is not Phase.RECORDED or not self._is_own(state) or message.cluster_id != state.cluster_id:
            return NOTHING
        if state.record is None or (sender, incarnation) not in {(r.node, r.incarnation) for r in state.record.nodes}:
            return NOTHING
        self._recorded.add(sender)
        return NOTHING if self._missing() else self.on_tick()

    # Being asked.

    def _on_ask(self, sender: NodeId, incarnation: bytes, ask: Ask) -> Step:
        state = self.state
        why = self._objection(sender, incarnation, ask)
        if state.phase.is_member:
            return Step(sends=((sender, self._standing()),))
        if why:
            return Step(sends=((sender, Refusal(ask.cluster_id, why)),))
        promise = (sender, Promise(ask.cluster_id, self._me))
        if state.phase is Phase.PROMISED and self._is_of(state, sender, incarnation, ask):
            return Step(sends=(promise,))
        if state.phase is Phase.RECORDED and self._is_of(state, sender, incarnation, ask):
            return Step(sends=((sender, Recorded(ask.cluster_id)),))
        saved = self._save(
            ClusterState(Phase.PROMISED, ask.cluster_id, self._plan.name, sender, incarnation, ask.without)
        )
        return Step(saved.save, (promise,))

    def _objection(self, sender: NodeId, incarnation: bytes, ask: Ask) -> str:
        """Why the promise cannot be given; empty where it can."""
        state, plan = self.state, self._plan
        taking_part = sorted(set(plan.nodes) - set(ask.without))
        if self._me.node not in taking_part:
            return f"node {self._me.node} was left out"
        if taking_part[0] != sender:
            return f"node {taking_part[0]} founds the cluster, not node {sender}"
        if state.phase is Phase.RECORDED and (state.asker, state.asker_incarnation) != (sender, incarnation):
            return (
                f"node {self._me.node} holds the record of cluster {state.cluster_id.hex()} of another life of "
                f"node {state.asker}; empty the data directories of all nodes that hold it"
            )
        promised_by_word = state.phase is Phase.PROMISED and bool(state.without) and state.asker != sender
        promised = state.phase is Phase.PROMISED and state.asker != sender and not ask.without
        if promised or promised_by_word:
            return f"node {self._me.node} has promised itself to cluster {state.cluster_id.hex()} of node {state.asker}"
        return ""

    def _on_record(self, sender: NodeId, incarnation: bytes, record: Bootstrap) -> Step:
        state = self.state
        if state.phase.is_member:
            return Step(sends=((sender, self._standing()),))
        named = any((row.node, row.incarnation) == (self._me.node, self._me.incarnation) for row in record.nodes)
        bound = (state.cluster_id, state.asker, state.asker_incarnation) == (record.cluster_id, sender, incarnation)
        if not named or not bound or state.phase is Phase.ALONE:
            why = f"node {self._me.node} has given no such promise in its present life"
            return Step(sends=((sender, Refusal(record.cluster_id, why)),))
        acknowledged = (sender, Recorded(record.cluster_id))
        if state.phase is Phase.RECORDED:
            return Step(sends=(acknowledged,))
        saved = self._save(replace(state, phase=Phase.RECORDED, record=record))
        return Step(saved.save, (acknowledged,))

    # Seeing and joining members.

    def _on_standing(self, sender: NodeId, standing: Standing) -> Step:
        is_news = self._standings.get(sender) != standing
        self._standings[sender] = standing
        if self.is_member:
            return NOTHING if standing.phase.is_member else Step(sends=((sender, self._standing()),))
        return self.on_tick() if is_news and standing.phase.is_member else NOTHING

    def _enter(self, members: list[NodeId]) -> Step:
        state = self.state
        if state.phase is Phase.RECORDED:
            if any(self._standings[node].cluster_id == state.cluster_id for node in members):
                return self._save(replace(state, phase=Phase.FOUNDED))
            if not self._is_own(state):
                return NOTHING
        return Step(sends=tuple((node, Join(self._me, self.lost)) for node in members))

    def _seek_meta(self) -> Step:
        if self.has_meta or self.meta_seed() is not None:
            return NOTHING
        return Step(sends=self._to_all(Join(self._me, self.lost)))

    def _on_joined(self, joined: Joined) -> Step:
        state = self.state
        if state.phase.is_member:
            if joined.cluster_id == state.cluster_id:
                self._joined = joined
            return NOTHING
        if state.phase is Phase.RECORDED and not self._is_own(state) and joined.cluster_id != state.cluster_id:
            return NOTHING
        self._joined = joined
        self._refusals.clear()
        if state.phase is Phase.RECORDED and joined.cluster_id == state.cluster_id:
            return self._save(replace(state, phase=Phase.FOUNDED))
        return self._save(ClusterState(Phase.JOINED, joined.cluster_id, joined.name))

    # Inside.

    def _save(self, state: ClusterState) -> Step:
        self.state = state
        return Step(save=state)

    def _standing(self) -> Standing:
        return Standing(self.state.phase, self.state.cluster_id)

    def _to_all(self, message: ClusterMessage) -> tuple[Send, ...]:
        return tuple((node, message) for node in sorted(self._peers))

    def _forget(self, node: NodeId) -> None:
        tables: tuple[dict[NodeId, NodeRow] | dict[NodeId, Standing] | dict[NodeId, str], ...] = (
            self._promises,
            self._standings,
            self._refusals,
        )
        for table in tables:
            table.pop(node, None)
        self._recorded.discard(node)

    def _is_me(self, row: ReplicaRow) -> bool:
        return row.node == self._me.node and row.incarnation == self._me.incarnation

    def _is_own(self, state: ClusterState) -> bool:
        """Whether this life of this node is the asker."""
        return (state.asker, state.asker_incarnation) == (self._me.node, self._me.incarnation)

    @staticmethod
    def _is_of(state: ClusterState, sender: NodeId, incarnation: bytes, ask: Ask) -> bool:
        return (state.asker, state.asker_incarnation, state.cluster_id) == (sender, incarnation, ask.cluster_id)

    def _hears(self) -> str:
        others = [node for node in self._plan.nodes if node != self._me.node]
        heard = [node for node in others if node in self._peers]
        if len(heard) == len(others):
            return ""
        unheard = [node for node in others if node not in self._peers]
        return f"; does not hear {_nodes(unheard)}"

    def _how(self, node: NodeId) -> str:
        if node not in self._peers:
            return ", which is not connected"
        return " to hold the record" if self.state.phase is Phase.RECORDED else " to promise"


def left_out(plan: FirstBoot, nodes: Collection[NodeId], *, own: NodeId) -> FirstBoot:
    """The plan without `nodes`.

    Raises:
        InvalidArgumentError: they are not other nodes of the plan.
    """
    without = tuple(sorted(set(nodes)))
    if not set(without) <= set(plan.nodes) - {own}:
        raise InvalidArgumentError(
            f"--without {', '.join(map(str, without))}: not other nodes of cluster.initial_nodes {list(plan.nodes)}"
        )
    return replace(plan, without=without)


def _nodes(nodes: list[NodeId]) -> str:
    return f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {', '.join(map(str, nodes))}"


def addresses_of(rows: Iterable[NodeRow]) -> Mapping[NodeId, str]:
    """Where the nodes' peer listeners are."""
    return {row.node: row.peer_address for row in rows if row.peer_address}
