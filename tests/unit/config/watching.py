"""The alert rules and the dashboard of `configs/`, and the metrics that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
# Of Prometheus itself, about what it scrapes.
BUILT_IN = {"up", "ALERTS"}

_STRING = re.compile(r'"[^"]*"')
_LABELS = re.compile(r"\{[^}]*\}|\b(?:by|on|ignoring|without|group_right|group_left)\s*\([^)]*\)")
_NAME = re.compile(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "by", "on", "ignoring", "group_left", "group_right", "bool", "offset", "inf", "nan"}


def alerts() -> list[dict[str, Any]]:
    """Every rule, with the name of its group."""
    found = yaml.safe_load((CONFIGS / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule | {"group": group["name"]} for group in found["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIGS / "grafana" / "logbroker.json").read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every PromQL expression, by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in alerts()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable {variable['name']}"] = (
                variable["query"]["query"].removeprefix("label_values(").split(",")[0]
            )
    for annotation in dashboard()["annotations"]["list"]:
        found[f"annotation {annotation['name']}"] = annotation["expr"]
    return found


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in PromQL."""
    bare = _LABELS.sub(" ", _STRING.sub('""', expression))
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    return {name for name in _NAME.findall(bare) if name not in _WORDS}
