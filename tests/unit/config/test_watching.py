"""Rules and dashboard are whole: they parse, say when and what to do, and name metrics in a form that is one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import rich_click as click
import yaml

from logbroker.cli.main import cli
from logbroker.config.loading import load_settings
from tests.unit.config.watching import BUILT_IN, CONFIGS, alerts, dashboard, expressions, metrics_in, panels

RULES = alerts()
WANTED = {
    "LogbrokerNodeDown",
    "LogbrokerGroupWithoutLeader",
    "LogbrokerDiskRoomLow",
    "LogbrokerWalStalled",
    "LogbrokerLoopLate",
    "LogbrokerDamageFound",
    "LogbrokerDamageUnmended",
    "LogbrokerReplicationLag",
    "LogbrokerFailOversOften",
    "LogbrokerConsumerLagGrowing",
    "LogbrokerGroupPaused",
    "LogbrokerBreakerTripped",
    "LogbrokerProduceRefused",
    "LogbrokerClockNotFollowed",
}


def test_the_alerts_that_an_operator_needs_are_there_once() -> None:
    names = [rule["alert"] for rule in RULES]
    assert set(names) >= WANTED
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"Logbroker[A-Z]\w+", name) for name in names)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_long_how_bad_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations", "group"}
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "action"}
    assert len(rule["annotations"]["action"]) > 40
    for text in rule["annotations"].values():
        assert text.count("{{") == text.count("}}")
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= {"instance", "queue", "partition", "group", "node", "what"}


def test_commands_that_an_alert_tells_to_type_are_commands_with_their_options() -> None:
    told = (
        " ".join([rule["annotations"]["action"] for rule in RULES])
        + (CONFIGS / "prometheus/prometheus.yml").read_text()
    )
    typed = re.findall(r"logbroker ((?:[a-z-]+ ?)+)([^;,.`\n]*)", re.sub(r"\{\{[^}]*\}\}|'[^']*'", "X", told))
    assert {words.split()[0] for words, _ in typed} >= {"status", "doctor", "clock", "queue", "token"}
    for words, rest in typed:
        found: click.Command = cli
        for word in words.split():
            if isinstance(found, click.Group) and word in found.commands:
                found = found.commands[word]
        assert not isinstance(found, click.Group), words
        known = {option for parameter in found.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (words, rest)


@pytest.mark.parametrize("place", expressions())
def test_every_expression_is_balanced_and_names_metrics_of_ours(place: str) -> None:
    expression = expressions()[place]
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)
    names = metrics_in(expression)
    assert names
    assert all(name in BUILT_IN or re.match(r"(logbroker|process|python)_", name) for name in names), names


def test_names_of_metrics_are_found_among_everything_else() -> None:
    assert metrics_in('sum by (queue, le) (rate(a_total{code=~"x|y", z="b_c"}[5m:1m])) / on (q) 0.8 * b_x > 3') == {
        "a_total",
        "b_x",
    }


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_prometheus_scrapes_the_admin_ports_of_the_three_nodes_and_loads_the_rules() -> None:
    found = yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert found["rule_files"] == ["alerts.yml"]
    (job,) = found["scrape_configs"]
    nodes = [load_settings(config_file=CONFIGS / "three_node" / f"node{n}.toml").settings for n in (1, 2, 3)]
    assert job["static_configs"][0]["targets"] == [node.listeners.admin.address for node in nodes]
    assert f'job="{job["job_name"]}"' in next(rule["expr"] for rule in RULES if rule["alert"] == "LogbrokerNodeDown")
