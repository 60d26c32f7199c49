"""Configuration of a node: what may be set (`settings`, `limits`) and how it is found (`loading`).

Importing this costs a quarter of a second, because of pydantic: only the server and the `config` commands do.
"""

from __future__ import annotations

from logbroker.config.limits import Limits, limits_page
from logbroker.config.loading import (
    LoadedSettings,
    file_warnings,
    load_settings,
    parse_assignment,
    schema_text,
)
from logbroker.config.settings import (
    AdminListener,
    ClientListener,
    ClusterSettings,
    InitialNode,
    Listener,
    PeerListener,
    Settings,
)

__all__ = [
    "AdminListener",
    "ClientListener",
    "ClusterSettings",
    "InitialNode",
    "Limits",
    "Listener",
    "LoadedSettings",
    "PeerListener",
    "Settings",
    "file_warnings",
    "limits_page",
    "load_settings",
    "parse_assignment",
    "schema_text",
]
