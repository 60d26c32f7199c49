"""Finds the settings: flags, then environment, then files named by `*_FILE`, then the TOML file, then defaults.

Each value remembers where it came from, for `config show --origin` and for error messages.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined
from pydantic_settings import EnvSettingsSource, InitSettingsSource, SettingsError, TomlConfigSettingsSource

from logbroker.config.settings import Settings
from logbroker.errors import ConfigurationError

ENV_PREFIX = "LOGBROKER_"
ENV_CONFIG = "LOGBROKER_CONFIG"
DEFAULT_FILES = (Path("logbroker.toml"), Path("/etc/logbroker/logbroker.toml"))
DEFAULT_ORIGIN = "default"

MAX_SECRET_FILE_BYTES = 64 * 1024

# Values of nested tables: only pydantic knows their types.
Table = dict[str, Any]


@final
@dataclass(frozen=True, slots=True)
class LoadedSettings:
    settings: Settings
    origins: Mapping[str, str]
    """From the dotted key of each value that was given to the words that say by whom; other keys are defaults."""
    file: Path | None

    def origin(self, key: str) -> str:
        return self.origins.get(key, DEFAULT_ORIGIN)

    def values(self) -> Iterator[tuple[str, object, str]]:
        """Yield (dotted key, value, origin) of every setting, in the order of the documentation."""
        for key, value in _leaves(self.settings):
            yield key, value, self.origin(key)


def load_settings(
    *, flags: Mapping[str, object] | None = None, config_file: Path | None = None, use_file: bool = True
) -> LoadedSettings:
    """Gather and check the settings of this process; `flags` are by dotted key and win over everything.

    Without `use_file` no TOML file is looked for.

    Raises:
        ConfigurationError: a key is unknown, a value is out of its bounds, values do not go together, or a file that
            was asked for cannot be read. The message names key, value, bound and origin, one line for each fault.
    """
    file = _config_file(config_file) if use_file else None
    _refuse_unknown_environment()
    secrets = _secret_files()
    layers: list[tuple[Table, Callable[[str], str]]] = [
        (_toml_layer(file), lambda _key: f"file {file}"),
        (_secret_layer(secrets), lambda key: f"env {_env_name(key)}_FILE"),
        (_env_layer(secrets), _env_origin),
        (_flag_layer(flags or {}), lambda _key: "flag"),
    ]
    merged: Table = {}
    origins: dict[str, str] = {}
    for layer, origin in layers:
        for key, value in _flatten(layer):
            _put(merged, key, value)
            origins[key] = origin(key)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, origins), hint="run `logbroker config check`") from error
    return LoadedSettings(settings, origins, file)


def parse_assignment(text: str) -> tuple[str, object]:
    """Take `section.key=value` apart; a value that begins like a JSON list, table or string is read as JSON.

    Raises:
        ConfigurationError: there is no `=`, or the JSON is not whole.
    """
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise ConfigurationError(f"{text!r} is not KEY=VALUE, for example raft.election_ms=2000")
    return key.strip(), _parse_text(value.strip(), place=key.strip())


def file_warnings(settings: Settings) -> list[str]:
    """Say which files with secrets are missing or too open; one sentence each."""
    listeners = settings.listeners
    paths = {
        "auth.root_token_file": settings.auth.root_token_file,
        "listeners.client.tls_key": listeners.client.tls_key,
        "listeners.admin.tls_key": listeners.admin.tls_key,
        "listeners.peer.tls_key": listeners.peer.tls_key,
    }
    found = []
    for key, path in paths.items():
        if path is None:
            continue
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError as error:
            found.append(f"{key}: {path} cannot be read: {error.strerror}")
            continue
        if mode & (stat.S_IWGRP | stat.S_IRWXO):
            found.append(f"{key}: {path} has mode {mode:04o}; others than its owner should not reach it (chmod 0600)")
    return found


def schema() -> dict[str, Any]:
    """Give the JSON Schema of the TOML file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}


def schema_text() -> str:
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"


def _config_file(asked: Path | None) -> Path | None:
    named = asked or (Path(os.environ[ENV_CONFIG]) if os.environ.get(ENV_CONFIG) else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"configuration file {named} does not exist or is not a file")
        return named
    return next((path for path in DEFAULT_FILES if path.is_file()), None)


def _toml_layer(file: Path | None) -> Table:
    if file is None:
        return {}
    try:
        return TomlConfigSettingsSource(Settings, toml_file=file)()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"configuration file {file}: {error}") from error


def _env_layer(secrets: Mapping[str, tuple[str, Path]]) -> Table:
    try:
        found = EnvSettingsSource(Settings)()
    except (SettingsError, ValueError) as error:
        # pydantic's message names the section and not the value, which is what we want of it.
        raise ConfigurationError(f"environment: {error}; lists and tables are given as JSON") from error
    layer: Table = {}
    names_of_files = {f"{key}_file" for key in secrets}
    for key, value in _flatten(found):
        if key not in names_of_files:
            _put(layer, key, value)
    return layer


def _flag_layer(flags: Mapping[str, object]) -> Table:
    tables: Table = {}
    for key, value in flags.items():
        _put(tables, key, value)
    return InitSettingsSource(Settings, init_kwargs=tables)()


def _secret_files() -> dict[str, tuple[str, Path]]:
    """Find `LOGBROKER_SECTION__KEY_FILE`, which names a file that holds the value: key -> (variable, file).

    A setting that is itself called `.._file` keeps its plain meaning.
    """
    keys = {key for key, _ in _leaves(Settings())}
    found: dict[str, tuple[str, Path]] = {}
    for name, path in _environment():
        key = _key_of(name)
        if key not in keys and key.endswith("_file") and key.removesuffix("_file") in keys:
            found[key.removesuffix("_file")] = (name, Path(path))
    return found


def _secret_layer(secrets: Mapping[str, tuple[str, Path]]) -> Table:
    tables: Table = {}
    for key, (name, path) in secrets.items():
        _put(tables, key, _parse_text(_read_bounded(path, name).strip(), place=name))
    return tables


def _read_bounded(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_FILE_BYTES + 1)
        if len(content) > MAX_SECRET_FILE_BYTES:
            raise ConfigurationError(f"{name}: {path} is larger than {MAX_SECRET_FILE_BYTES:,} bytes")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}: {path} cannot be read: {error}") from error


def _parse_text(text: str, *, place: str) -> object:
    if text[:1] not in ("[", "{", '"'):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{place}: not JSON: {error}") from error


def _environment() -> Iterator[tuple[str, str]]:
    """Yield the variables that speak of settings: those with a nested key.

    Names with the prefix alone are left: the command line has some of its own (LOGBROKER_URL), and Kubernetes sets
    LOGBROKER_PORT, LOGBROKER_SERVICE_HOST and more for a service of our name.
    """
    for name, value in os.environ.items():
        if name.upper().startswith(ENV_PREFIX) and "__" in name[len(ENV_PREFIX) :]:
            yield name, value


def _refuse_unknown_environment() -> None:
    # pydantic-settings refuses unknown keys of a known section, and says nothing of unknown sections.
    for name, _ in _environment():
        section = _key_of(name).partition(".")[0]
        if section not in Settings.model_fields:
            raise ConfigurationError(
                f"env {name}: no section {section!r}{_did_you_mean(section, Settings.model_fields)}"
            )


def _key_of(env_name: str) -> str:
    return env_name[len(ENV_PREFIX) :].lower().replace("__", ".")


def _env_name(key: str) -> str:
    return ENV_PREFIX + key.upper().replace(".", "__")


def _env_origin(key: str) -> str:
    """Name the variable a value came from: its own, or a whole table given as JSON."""
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        name = _env_name(".".join(parts[:count]))
        if any(name == present.upper() for present in os.environ):
            return f"env {name}"
    return "env"


def _put(tables: Table, key: str, value: object) -> None:
    *path, last = key.split(".")
    for part in path:
        table = tables.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigurationError(f"{key}: {part} is a value and not a table")
        tables = table
    tables[last] = value


def _flatten(tables: Mapping[str, object], *, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tables.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, prefix=f"{key}.")
        else:
            yield key, value


def _leaves(model: BaseModel, *, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    return "\n".join(
        _sentence(fault["loc"], fault["type"], fault["msg"], fault["input"], origins) for fault in error.errors()
    )


def _sentence(place: Sequence[int | str], kind: str, message: str, value: object, origins: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in place)
    origin = next((text for given, text in origins.items() if given == key or key.startswith(f"{given}.")), "")
    where = f" (from {origin})" if origin else ""
    if kind == "extra_forbidden":
        return f"{key}: unknown key{where}{_did_you_mean(str(place[-1]), _names_in(place[:-1]))}"
    message = message.removeprefix("Value error, ")
    if kind == "value_error" or value is PydanticUndefined or isinstance(value, Mapping):
        return f"{key}: {message}{where}" if key else message
    return f"{key}: {message}, not {value!r}{where}"


def _names_in(place: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in place:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)


def _did_you_mean(name: str, names: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
