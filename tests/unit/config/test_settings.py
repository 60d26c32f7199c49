"""Bounds and relations of the settings, without any file or environment."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from logbroker.config.settings import ClusterSettings, Settings

NODES = (
    {"id": 1, "peer": "a.example:4102", "client": "ws://a.example:4100"},
    {"id": 2, "peer": "b.example:4102", "client": "ws://b.example:4100"},
    {"id": 3, "peer": "c.example:4102", "client": "ws://c.example:4100"},
)
TLS = {"tls_cert": "c.pem", "tls_key": "k.pem"}


def settings(**sections: Any) -> Settings:  # noqa: ANN401  tables of any shape, to be refused or not
    return Settings(**sections)


def faults(**sections: Any) -> str:  # noqa: ANN401  as above
    with pytest.raises(ValidationError) as raised:
        settings(**sections)
    return str(raised.value)


def test_the_defaults_are_a_single_node_on_loopback_that_warns_of_its_one_disk() -> None:
    defaults = settings()
    assert defaults.cluster.size == 1
    assert defaults.client_url == "ws://127.0.0.1:4100"
    assert defaults.admin_url == "http://127.0.0.1:4101"
    assert defaults.peer_address == "127.0.0.1:4102"
    assert defaults.warnings() == ["cluster.size is 1: what is acknowledged is on one disk only"]


def test_constructing_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGBROKER_NODE__ID", "7")
    assert settings().node.id == 1


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("node", "id", 0),
        ("node", "id", 65_536),
        ("raft", "tick_ms", 9),
        ("raft", "max_uncommitted_bytes", 1),
        ("storage", "wal_max_files", 2),
        ("storage", "ballast_percent", 20.5),
        ("log_time", "max_skew_ms", 60_001),
        ("limits", "max_wait_ms", 30_001),
        ("limits", "max_hide_ms", 43_200_001),
        ("limits", "max_receive_count", 1_001),
        ("limits", "max_ranges_per_change", 10_001),
        ("timeouts", "drain_ms", -1),
        ("cluster", "size", 4),
        ("cluster", "name", "Upper"),
        ("cluster", "name", "two.labels"),
    ],
)
def test_a_value_outside_its_bounds_is_refused(section: str, key: str, value: object) -> None:
    assert f"{section}.{key}" in faults(**{section: {key: value}})


def test_an_unknown_key_is_refused_in_every_section() -> None:
    for section in Settings.model_fields:
        assert "Extra inputs are not permitted" in faults(**{section: {"no_such_key": 1}})


def test_settings_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().raft.tick_ms = 50


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "broker.example", "localhost.example"])
def test_a_client_listener_off_loopback_needs_tls_and_tokens(host: str) -> None:
    fault = faults(listeners={"client": {"host": host}})
    assert "listeners.client is open to the network" in fault
    assert "without TLS (tls_cert, tls_key) and auth.tokens = true" in fault
    assert "auth.tokens" in faults(listeners={"client": {"host": host, **TLS}})
    assert "TLS" in faults(listeners={"client": {"host": host}}, auth={"tokens": True})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_a_listener_on_loopback_needs_no_protection(host: str) -> None:
    assert settings(listeners={name: {"host": host} for name in ("client", "admin", "peer")}).listeners.peer.is_loopback


def test_a_protected_listener_may_be_open_to_the_network() -> None:
    given = settings(
        listeners={
            "client": {"host": "0.0.0.0", **TLS},
            "admin": {"host": "0.0.0.0", **TLS},
            "peer": {"host": "0.0.0.0", **TLS, "tls_ca": "ca.pem"},
        },
        auth={"tokens": True, "root_token_file": "t"},
        cluster={"size": 3, "initial_nodes": NODES},
        node={"id": 2},
    )
    assert given.warnings() == []
    assert given.client_url == "ws://b.example:4100"
    assert given.peer_address == "b.example:4102"


def test_the_operator_may_say_insecure_and_is_reminded_of_it() -> None:
    open_to_all = {"host": "0.0.0.0", "insecure": True}
    given = settings(listeners={"client": open_to_all, "admin": open_to_all, "peer": open_to_all})
    assert [line.split(" is ")[0] for line in given.warnings()] == [
        "listeners.client",
        "listeners.admin",
        "listeners.peer",
        "cluster.size",
    ]


def test_saying_insecure_of_one_listener_does_not_open_another() -> None:
    fault = faults(listeners={"client": {"host": "0.0.0.0", "insecure": True}, "peer": {"host": "0.0.0.0"}})
    assert "listeners.peer is open" in fault


@pytest.mark.parametrize(
    ("listener", "fault"),
    [
        ({"peer": TLS}, "tls_ca is missing"),
        ({"client": {"tls_cert": "c.pem"}}, "tls_cert and tls_key go together"),
        ({"admin": {"tls_ca": "ca.pem"}}, "tls_ca needs tls_cert"),
        ({"client": {"port": 4102}}, "need a port each"),
        ({"client": {"host": "a b"}}, "host"),
        ({"client": {"advertised_url": "http://x"}}, "advertised_url"),
        ({"peer": {"advertised_address": "x"}}, "advertised_address"),
    ],
)
def test_a_listener_that_cannot_work_is_refused(listener: dict[str, object], fault: str) -> None:
    assert fault in faults(listeners=listener)


def test_free_ports_may_be_taken_by_all_three_listeners() -> None:
    assert settings(listeners={name: {"port": 0} for name in ("client", "admin", "peer")}).listeners.admin.port == 0


@pytest.mark.parametrize(
    ("cluster", "node", "fault"),
    [
        ({"size": 3}, {"id": 1}, "initial_nodes names 0 nodes, size is 3"),
        ({"size": 3, "initial_nodes": NODES[:2]}, {"id": 1}, "initial_nodes names 2 nodes, size is 3"),
        ({"size": 3, "initial_nodes": (*NODES[:2], NODES[0])}, {"id": 1}, "initial_nodes names id 1 twice"),
        (
            {"size": 3, "initial_nodes": (*NODES[:2], {"id": 9, "peer": "a.example:4102"})},
            {"id": 1},
            "peer address a.example:4102 twice",
        ),
        ({"size": 3, "initial_nodes": NODES}, {"id": 4}, "node.id 4 is not one of cluster.initial_nodes [1, 2, 3]"),
        ({"size": 3, "initial_nodes": NODES}, {}, "node.id must be said in a cluster of 3"),
        ({"size": 1, "initial_nodes": [{"id": 1, "peer": "no-port"}]}, {}, "cluster.initial_nodes.0.peer"),
    ],
)
def test_a_cluster_that_is_not_whole_is_refused(
    cluster: dict[str, object], node: dict[str, object], fault: str
) -> None:
    assert fault in faults(cluster=cluster, node=node)


def test_a_cluster_on_all_addresses_must_say_where_its_clients_connect() -> None:
    nodes = [{"id": n, "peer": f"n{n}:1"} for n in (1, 2, 3)]
    open_to_all = {"client": {"host": "0.0.0.0", "insecure": True}}
    cluster = {"size": 3, "initial_nodes": nodes}
    assert "advertised_url must be said" in faults(cluster=cluster, node={"id": 1}, listeners=open_to_all)
    assert settings(listeners=open_to_all).client_url == ""


def test_the_fingerprint_is_of_what_bootstrap_agrees_on() -> None:
    plain = ClusterSettings.model_validate({"size": 3, "initial_nodes": NODES})
    turned = ClusterSettings.model_validate({"size": 3, "initial_nodes": NODES[::-1]})
    moved = ClusterSettings.model_validate({"size": 3, "initial_nodes": ({**NODES[0], "peer": "z:1"}, *NODES[1:])})
    renamed = ClusterSettings.model_validate({"name": "other", "size": 3, "initial_nodes": NODES})
    assert plain.fingerprint() == turned.fingerprint()
    assert len({plain.fingerprint(), moved.fingerprint(), renamed.fingerprint()}) == 3
    assert len(plain.fingerprint()) == 16


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"raft": {"election_ms": 400}}, "election_ms 400 is below 5 times heartbeat_ms 100"),
        ({"raft": {"election_ms": 1_050}}, "election_ms 1,050 is not a multiple of tick_ms 100"),
        ({"raft": {"heartbeat_ms": 150}}, "heartbeat_ms 150 is not a multiple of tick_ms 100"),
        ({"raft": {"max_uncommitted_bytes": 256 << 20}}, "max_node_uncommitted_bytes 134,217,728 is below"),
        ({"raft": {"max_message_bytes": 16 << 20}}, "max_inflight_bytes 8,388,608 is below max_message_bytes"),
        ({"storage": {"wal_file_bytes": 1 << 20}}, "max_commit_bytes 4,194,304 is above 1,044,480"),
        ({"storage": {"preallocate_max_bytes": 65_536}}, "preallocate_max_bytes 65,536 is below"),
        ({"storage": {"max_commit_bytes": 1 << 20}}, "storage.max_commit_bytes 1,048,576 is below"),
        ({"storage": {"segment_bytes": 1 << 20}}, "storage.segment_bytes 1,048,576 is below"),
        ({"raft": {"max_uncommitted_bytes": 1 << 20}}, "raft.max_uncommitted_bytes 1,048,576 is below"),
        ({"timeouts": {"idle_ms": 2_000}}, "idle_ms 2,000 is below ping_ms 20,000"),
        ({"limits": {"max_record_bytes": 2 << 20}}, "max_record_bytes 2,097,152 is above max_batch_bytes 1,048,576"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_both_of_them(sections: dict[str, object], fault: str) -> None:
    assert fault in faults(**sections)


def test_ticks_are_whole() -> None:
    raft = settings(raft={"tick_ms": 50, "heartbeat_ms": 150, "election_ms": 1_500}).raft
    assert (raft.heartbeat_ticks, raft.election_ticks) == (3, 30)


def test_the_ballast_is_the_larger_of_its_two_bounds() -> None:
    storage = settings().storage
    assert storage.ballast_bytes(1 << 30) == 64 << 20
    assert storage.ballast_bytes(1 << 40) == (1 << 40) // 100
