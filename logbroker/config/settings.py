"""What an operator may set, with defaults, bounds and meaning. How values are found stands in `loading`.

Sections are the tables of the TOML file and the first part of `LOGBROKER_SECTION__KEY`. Sizes are bytes, times are
milliseconds. Nothing here is a secret: secrets are named by the path of the file that holds them.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from pathlib import Path
from typing import Annotated, Literal, Self, final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from logbroker.config.limits import GIB, KIB, MIB, Limits

MAX_NODE_ID = 65_535
CLUSTER_SIZES = (1, 3, 5, 7)

# A group commit begins on a page boundary of its WAL file, so a file holds one page less than its size.
WAL_PAGE_BYTES = 4_096

HostPort = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):[0-9]{1,5}$", max_length=300)]
ClientUrl = Annotated[str, StringConstraints(pattern=r"^wss?://[^\s/]+(/[^\s?#]*)?$", max_length=500)]
WebUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+(/[^\s?#]*)?$", max_length=500)]
Host = Annotated[str, StringConstraints(pattern=r"^[^\s/]+$", max_length=253)]
# The cluster name is the last part of a node's name in peer certificates, so it is a DNS label.
ClusterName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=0, le=65_535)]


def _is_cluster_size(value: int) -> int:
    if value not in CLUSTER_SIZES:
        raise ValueError("should be 1, 3, 5 or 7: an even one bears no more failures than the odd one below it")
    return value


# Not a Literal: that would refuse the "3" of an environment variable.
ClusterSize = Annotated[int, AfterValidator(_is_cluster_size), Field(json_schema_extra={"enum": list(CLUSTER_SIZES)})]


class Section(BaseModel):
    """One table of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@final
class NodeSettings(Section):
    id: int = Field(
        default=1, ge=1, le=MAX_NODE_ID, description="This node's number; never given to another node of the cluster."
    )
    data_dir: Path = Field(default=Path("data"), description="Where everything durable lives; made with mode 0700.")


@final
class InitialNode(Section):
    """One node of the first boot. All nodes must be given the same list."""

    id: int = Field(ge=1, le=MAX_NODE_ID, description="The node's number.")
    peer: HostPort = Field(description="host:port at which other nodes reach its peer listener.")
    client: ClientUrl | None = Field(default=None, description="ws:// or wss:// URL at which clients reach it.")


@final
class ClusterSettings(Section):
    name: ClusterName = Field(
        default="logbroker", description="Name of the cluster; node N's peer certificate is for `node-N.NAME`."
    )
    size: ClusterSize = Field(default=1, description="How many nodes hold each partition.")
    initial_nodes: tuple[InitialNode, ...] = Field(
        default=(),
        max_length=7,
        description="The nodes of the first boot; equal on all of them. Not needed with size 1.",
    )

    def fingerprint(self) -> bytes:
        """Give 16 bytes that are equal on two nodes if and only if both would bootstrap the same cluster."""
        nodes = [(node.id, node.peer) for node in sorted(self.initial_nodes, key=lambda node: node.id)]
        text = json.dumps([self.name, self.size, nodes], separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    @model_validator(mode="after")
    def _is_a_cluster(self) -> Self:
        if self.size == 1 and not self.initial_nodes:
            return self
        if len(self.initial_nodes) != self.size:
            raise ValueError(f"initial_nodes names {len(self.initial_nodes)} nodes, size is {self.size}")
        _all_different("id", [str(node.id) for node in self.initial_nodes])
        _all_different("peer address", [node.peer for node in self.initial_nodes])
        return self


def _all_different(what: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"initial_nodes names {what} {value} twice")


class Listener(Section):
    """An address that this node listens on. Off loopback it must be protected, or say that it is not."""

    host: Host = Field(default="127.0.0.1", description="Address to bind; `0.0.0.0` or `::` for all.")
    port: Port = Field(default=0, description="Port to bind; 0 takes a free one.")
    tls_cert: Path | None = Field(default=None, description="Certificate chain, PEM.")
    tls_key: Path | None = Field(default=None, description="Private key of `tls_cert`, PEM.")
    tls_ca: Path | None = Field(default=None, description="CA that the other side's certificate must come from, PEM.")
    insecure: bool = Field(
        default=False, description="Listen off loopback without the protection this listener asks for."
    )

    @property
    def has_tls(self) -> bool:
        return self.tls_cert is not None

    @property
    def is_loopback(self) -> bool:
        """True only where nothing outside this machine can connect; a name that is not `localhost` may be anything."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_unspecified
        except ValueError:
            return False

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        host = self.host.strip("[]")
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_ca is not None and self.tls_cert is None:
            raise ValueError("tls_ca needs tls_cert and tls_key")
        return self


@final
class ClientListener(Listener):
    port: Port = Field(default=4100, description="Port to bind; 0 takes a free one.")
    tls_ca: Path | None = Field(default=None, description="Set: every client needs a certificate of this CA, PEM.")
    advertised_url: ClientUrl | None = Field(
        default=None, description="URL that clients are told; from `initial_nodes`, else made from host and port."
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="Origins that browsers may connect from; none by default. `*` allows any.",
    )


@final
class AdminListener(Listener):
    port: Port = Field(default=4101, description="Port to bind; 0 takes a free one.")
    tls_ca: Path | None = Field(default=None, description="Set: every caller needs a certificate of this CA, PEM.")
    advertised_url: WebUrl | None = Field(
        default=None, description="URL that people are told; made from host and port."
    )


@final
class PeerListener(Listener):
    port: Port = Field(default=4102, description="Port to bind; 0 takes a free one.")
    tls_ca: Path | None = Field(
        default=None,
        description="The cluster's own CA, PEM. It signs nothing but this cluster's nodes. Needed with tls_cert.",
    )
    advertised_address: HostPort | None = Field(
        default=None, description="host:port that other nodes are told; from `initial_nodes`, else host and port."
    )

    @model_validator(mode="after")
    def _both_sides_show_certificates(self) -> Self:
        if self.has_tls and self.tls_ca is None:
            raise ValueError("tls_ca is missing: nodes check each other's certificates")
        return self


@final
class Listeners(Section):
    client: ClientListener = Field(default_factory=ClientListener, description="WebSocket, for clients.")
    admin: AdminListener = Field(default_factory=AdminListener, description="HTTP: probes, metrics, administration.")
    peer: PeerListener = Field(default_factory=PeerListener, description="Raft, between the nodes.")

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = [port for port in (self.client.port, self.admin.port, self.peer.port) if port]
        if len(set(ports)) != len(ports):
            raise ValueError(f"client, admin and peer need a port each, not {ports}")
        return self


@final
class AuthSettings(Section):
    tokens: bool = Field(default=False, description="Clients must show a token, and may do only what it grants.")
    root_token_file: Path | None = Field(
        default=None, description="File with a token that may do everything; to make the first tokens with."
    )


@final
class RaftSettings(Section):
    tick_ms: int = Field(default=100, ge=10, le=1_000, description="Unit of Raft's timers.")
    heartbeat_ms: int = Field(default=100, ge=10, le=10_000, description="How often a leader tells that it is there.")
    election_ms: int = Field(
        default=1_000, ge=100, le=60_000, description="A follower waits this long, up to twice it, for a leader's word."
    )
    disconnect_jitter_ms: int = Field(
        default=40,
        ge=0,
        le=1_000,
        description="After a leader's connection closed, pre-vote starts in 10 ms plus up to this.",
    )
    max_message_bytes: int = Field(
        default=MIB, ge=64 * KIB, le=16 * MIB, description="Entries in one append to a follower."
    )
    max_inflight_messages: int = Field(
        default=4,
        ge=1,
        le=4_096,
        description="Appends on the way to one follower of a group; what comes meanwhile gathers for the next.",
    )
    max_inflight_bytes: int = Field(
        default=8 * MIB, ge=MIB, le=256 * MIB, description="Bytes on the way to one follower of a group."
    )
    max_uncommitted_bytes: int = Field(
        default=8 * MIB,
        ge=MIB,
        le=GIB,
        description="Entries of one group proposed and not committed; past it: overloaded.",
    )
    max_node_uncommitted_bytes: int = Field(
        default=128 * MIB,
        ge=MIB,
        le=4 * GIB,
        description=(
            "The same over all groups that this node leads; at most "
            "(storage.wal_file_bytes - storage.max_commit_bytes) / cluster.size, however much more is set."
        ),
    )

    @property
    def heartbeat_ticks(self) -> int:
        return self.heartbeat_ms // self.tick_ms

    @property
    def election_ticks(self) -> int:
        return self.election_ms // self.tick_ms

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, value in (("heartbeat_ms", self.heartbeat_ms), ("election_ms", self.election_ms)):
            if value % self.tick_ms:
                raise ValueError(f"{name} {value:,} is not a multiple of tick_ms {self.tick_ms:,}")
        if self.election_ms < 5 * self.heartbeat_ms:
            # Fewer heartbeats than that, and one lost packet or one slow sync starts an election.
            raise ValueError(f"election_ms {self.election_ms:,} is below 5 times heartbeat_ms {self.heartbeat_ms:,}")
        _at_least("max_inflight_bytes", self.max_inflight_bytes, "max_message_bytes", self.max_message_bytes)
        _at_least(
            "max_node_uncommitted_bytes",
            self.max_node_uncommitted_bytes,
            "max_uncommitted_bytes",
            self.max_uncommitted_bytes,
        )
        return self


def _at_least(name: str, value: int, bound_name: str, bound: int) -> None:
    if value < bound:
        raise ValueError(f"{name} {value:,} is below {bound_name} {bound:,}")


@final
class StorageSettings(Section):
    wal_file_bytes: int = Field(
        default=32 * MIB,
        multiple_of=WAL_PAGE_BYTES,
        ge=MIB,
        le=GIB,
        description="One file of the write-ahead log's ring.",
    )
    wal_max_files: int = Field(
        default=8, ge=3, le=256, description="Files the ring may grow to while a flush is late; then commits wait."
    )
    max_commit_bytes: int = Field(
        default=4 * MIB, ge=128 * KIB, le=512 * MIB, description="One group commit, one sync."
    )
    segment_bytes: int = Field(
        default=64 * MIB, ge=MIB, le=2 * GIB, description="A partition's segment is closed at this size."
    )
    preallocate_min_bytes: int = Field(default=MIB, ge=64 * KIB, le=64 * MIB, description="First room of a segment.")
    preallocate_max_bytes: int = Field(
        default=64 * MIB, ge=64 * KIB, le=2 * GIB, description="Its room doubles up to this."
    )
    checkpoint_bytes: int = Field(
        default=64 * MIB, ge=64 * KIB, le=4 * GIB, description="Checkpoint after this much log."
    )
    checkpoint_ms: int = Field(
        default=60_000, ge=1_000, le=3_600_000, description="Checkpoint after this time of changes."
    )
    ballast_min_bytes: int = Field(
        default=64 * MIB,
        ge=MIB,
        le=64 * GIB,
        description="Room kept back for acks and floors when the disk is full; at least this.",
    )
    ballast_percent: float = Field(default=1.0, ge=0.0, le=20.0, description="And at least this part of the disk.")
    index_map_bytes: int = Field(
        default=64 * GIB,
        ge=64 * MIB,
        le=16_384 * GIB,
        description="Address space of the index; sparse, it takes only what it holds.",
    )
    scrub_bytes_per_s: int = Field(
        default=8 * MIB,
        ge=0,
        le=GIB,
        description="How fast stored data is read again to find rot, a small entry counting as 4 KiB; 0 never does.",
    )
    scrub_pause_ms: int = Field(
        default=3_600_000, ge=1_000, le=2_592_000_000, description="Rest between two such rounds."
    )

    def ballast_bytes(self, disk_bytes: int) -> int:
        """Give the ballast for a disk of `disk_bytes`."""
        return max(self.ballast_min_bytes, int(disk_bytes * self.ballast_percent / 100))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        room = self.wal_file_bytes - WAL_PAGE_BYTES
        if self.max_commit_bytes > room:
            raise ValueError(f"max_commit_bytes {self.max_commit_bytes:,} is above {room:,}, the room of one WAL file")
        _at_least(
            "preallocate_max_bytes", self.preallocate_max_bytes, "preallocate_min_bytes", self.preallocate_min_bytes
        )
        return self


@final
class LogTimeSettings(Section):
    max_skew_ms: int = Field(
        default=1_000,
        ge=10,
        le=60_000,
        description="A node further from the median of the nodes' clocks does not lead.",
    )
    max_clock_step_ms: int = Field(
        default=3_600_000,
        ge=60_000,
        le=86_400_000,
        description="A larger step of the clock is not followed until accepted.",
    )


@final
class TimeoutSettings(Section):
    handshake_ms: int = Field(default=5_000, ge=100, le=60_000, description="TLS and WebSocket handshake.")
    hello_ms: int = Field(
        default=5_000, ge=100, le=60_000, description="From the handshake to the hello with the token."
    )
    ping_ms: int = Field(
        default=20_000, ge=1_000, le=300_000, description="How often a silent client is asked for a sign."
    )
    idle_ms: int = Field(
        default=60_000, ge=2_000, le=900_000, description="A client that gives none for this long is closed."
    )
    send_ms: int = Field(
        default=30_000, ge=100, le=300_000, description="A client that takes nothing for this long is closed."
    )
    close_ms: int = Field(default=2_000, ge=100, le=60_000, description="Wait for the other side's close frame.")
    request_ms: int = Field(
        default=30_000, ge=100, le=300_000, description="A write not decided by then is answered with `unknown`."
    )
    peer_connect_ms: int = Field(default=2_000, ge=100, le=60_000, description="Connecting to another node.")
    drain_ms: int = Field(default=10_000, ge=0, le=300_000, description="From the signal to stop to the end, at most.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _at_least("idle_ms", self.idle_ms, "ping_ms", self.ping_ms)
        return self


@final
class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least serious event written."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="One line of text, or one JSON object, an event."
    )


@final
class Settings(BaseSettings):
    """The configuration of one node.

    Constructing it reads no environment and no file: `loading.load_settings` does, and knows where each value is from.
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="LOGBROKER_", env_nested_delimiter="__", title="logbroker configuration"
    )

    node: NodeSettings = Field(default_factory=NodeSettings, description="This node.")
    cluster: ClusterSettings = Field(default_factory=ClusterSettings, description="The cluster it belongs to.")
    listeners: Listeners = Field(default_factory=Listeners, description="Where it listens.")
    auth: AuthSettings = Field(default_factory=AuthSettings, description="Who may do what.")
    raft: RaftSettings = Field(default_factory=RaftSettings, description="Replication.")
    storage: StorageSettings = Field(default_factory=StorageSettings, description="Disk.")
    log_time: LogTimeSettings = Field(default_factory=LogTimeSettings, description="Clock.")
    limits: Limits = Field(default_factory=Limits, description="What clients may ask for.")
    timeouts: TimeoutSettings = Field(default_factory=TimeoutSettings, description="How long the node waits.")
    log: LogSettings = Field(default_factory=LogSettings, description="What it writes about itself.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def client_url(self) -> str:
        """URL that clients are told for this node; empty where they had better keep the one they came by."""
        listener = self.listeners.client
        named = next((node.client for node in self.cluster.initial_nodes if node.id == self.node.id), None)
        if listener.advertised_url or named or listener.is_wildcard:
            return listener.advertised_url or named or ""
        return f"{'wss' if listener.has_tls else 'ws'}://{listener.address}"

    @property
    def peer_address(self) -> str:
        """`host:port` that other nodes are told for this node."""
        listener = self.listeners.peer
        named = next((node.peer for node in self.cluster.initial_nodes if node.id == self.node.id), None)
        return listener.advertised_address or named or listener.address

    @property
    def admin_url(self) -> str:
        listener = self.listeners.admin
        return listener.advertised_url or f"{'https' if listener.has_tls else 'http'}://{listener.address}"

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        self._check_node()
        self._check_exposure()
        self._check_sizes()
        return self

    def _check_node(self) -> None:
        ids = [node.id for node in self.cluster.initial_nodes]
        if ids and self.node.id not in ids:
            raise ValueError(f"node.id {self.node.id} is not one of cluster.initial_nodes {ids}")
        if self.cluster.size > 1 and "id" not in self.node.model_fields_set:
            raise ValueError(f"node.id must be said in a cluster of {self.cluster.size}: it is another on each node")

    def _check_exposure(self) -> None:
        for key, listener, missing in (
            ("client", self.listeners.client, self._missing_for_callers(self.listeners.client)),
            ("admin", self.listeners.admin, self._missing_for_callers(self.listeners.admin)),
            ("peer", self.listeners.peer, self._missing_for_peers()),
        ):
            if missing and not listener.is_loopback and not listener.insecure:
                raise ValueError(
                    f"listeners.{key} is open to the network at {listener.address} without {missing}: "
                    f"set it, or say listeners.{key}.insecure = true"
                )
        client = self.listeners.client
        if client.is_wildcard and not self.client_url and self.cluster.size > 1:
            raise ValueError(
                f"listeners.client.advertised_url must be said: clients cannot be told to connect to {client.address}"
            )

    def _missing_for_callers(self, listener: Listener) -> str:
        missing = [] if listener.has_tls else ["TLS (tls_cert, tls_key)"]
        return " and ".join([*missing, *([] if self.auth.tokens else ["auth.tokens = true"])])

    def _missing_for_peers(self) -> str:
        return "" if self.listeners.peer.has_tls else "TLS (tls_cert, tls_key, tls_ca)"

    def _check_sizes(self) -> None:
        # An entry is a batch and its header; it must fit one commit and one window, or it could never be written.
        entry = self.limits.max_batch_bytes + 4 * KIB
        _at_least("storage.max_commit_bytes", self.storage.max_commit_bytes, "limits.max_batch_bytes + 4 KiB", entry)
        _at_least(
            "raft.max_uncommitted_bytes", self.raft.max_uncommitted_bytes, "limits.max_batch_bytes + 4 KiB", entry
        )
        _at_least("storage.segment_bytes", self.storage.segment_bytes, "limits.max_batch_bytes + 4 KiB", entry)

    def warnings(self) -> list[str]:
        """Say what is allowed but worth a second thought, one sentence each; touches no file."""
        found = []
        for name in ("client", "admin", "peer"):
            listener: Listener = getattr(self.listeners, name)
            if listener.insecure and not listener.is_loopback:
                found.append(f"listeners.{name} is open to the network at {listener.address} with insecure = true")
        if self.auth.tokens and self.auth.root_token_file is None:
            found.append("auth.tokens is on without auth.root_token_file: a new cluster could never make a token")
        if self.cluster.size == 1:
            found.append("cluster.size is 1: what is acknowledged is on one disk only")
        return found
