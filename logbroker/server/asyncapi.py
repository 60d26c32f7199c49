"""The client port as an AsyncAPI 3.0 document, made from the wire types: `docs/asyncapi.json` is what it gives.

Schemas are those of the JSON subprotocol. What stands where in the arrays of the binary one is in `x-binary`. What a
field means is taken from the words behind it in the source.
"""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Any, cast

import msgspec

from logbroker.server.closing import CloseCode
from logbroker.wire import json_messages, requests
from logbroker.wire.failures import CODES
from logbroker.wire.json_numbers import MAX_NUMBER, SAFE_NUMBER
from logbroker.wire.json_types import DEFAULTS, REPLIES, REQUESTS, given, kind_of, to_builtins, told
from logbroker.wire.requests import (
    JSON_SUBPROTOCOL,
    PROTOCOL_VERSION,
    PUSHES_OF,
    REPLY_OF,
    STREAM_PATH,
    SUBPROTOCOL,
    Error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from msgspec import Struct

_SCHEMAS = "#/components/schemas/"
_MESSAGES = "#/channels/stream/messages/"
_CHANNEL = {"$ref": "#/channels/stream"}

_NUMBER: dict[str, Any] = {
    "type": "string",
    "pattern": "^(0|[1-9][0-9]{0,18})$",
    "maxLength": 19,
    "description": f"A whole number from 0 to {MAX_NUMBER}, as text.",
}
_GIVEN_NUMBER: dict[str, Any] = {
    "description": f"A whole number: as text up to {MAX_NUMBER}, as a number up to {SAFE_NUMBER}.",
    "anyOf": [{"$ref": f"{_SCHEMAS}Number"}, {"type": "integer", "minimum": 0, "maximum": SAFE_NUMBER}],
}

_DESCRIPTION = f"""Queues over a WebSocket at {STREAM_PATH}.

Two subprotocols say the same: {SUBPROTOCOL} with binary messages, and {JSON_SUBPROTOCOL} with texts, each of which is
one of the messages below. The first message is a hello, and nothing follows it before the welcome. Every request has
one reply with its `rid`, of the kind named at its operation or an error; replies come in any order. A subscribe has any
number of deliveries before its reply, with the same `rid`. An error with a rid of 0 belongs to the connection and is
its last word."""


def document() -> dict[str, Any]:
    """The whole document, as plain values for JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "logbroker client protocol",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "node": {
                "host": "127.0.0.1:4100",
                "protocol": "ws",
                "description": "Any node; wss where listeners.client has a certificate.",
            }
        },
        "channels": {"stream": _channel()},
        "operations": dict(_operations()),
        "components": {
            "messages": {kind_of(source): _message(source) for source in (*REQUESTS, *REPLIES)},
            "schemas": _schemas(),
        },
    }


def _channel() -> dict[str, Any]:
    return {
        "address": STREAM_PATH,
        "messages": {
            kind_of(source): {"$ref": f"#/components/messages/{kind_of(source)}"} for source in (*REQUESTS, *REPLIES)
        },
        "bindings": {
            "ws": {
                "method": "GET",
                "headers": {
                    "type": "object",
                    "properties": {
                        "Sec-WebSocket-Protocol": {"type": "string", "enum": [SUBPROTOCOL, JSON_SUBPROTOCOL]}
                    },
                    "required": ["Sec-WebSocket-Protocol"],
                },
                "bindingVersion": "0.1.0",
            }
        },
        "x-close-codes": {str(int(code)): code.name.lower() for code in CloseCode},
    }


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for source in REQUESTS:
        kind = kind_of(source)
        answers = (REPLY_OF[source], Error)
        yield (
            kind,
            {
                "action": "receive",
                "channel": _CHANNEL,
                "messages": [{"$ref": f"{_MESSAGES}{kind}"}],
                "reply": {
                    "channel": _CHANNEL,
                    "messages": [{"$ref": f"{_MESSAGES}{kind_of(answer)}"} for answer in answers],
                },
            },
        )
    for asked, pushed in PUSHES_OF.items():
        yield (
            f"push_{kind_of(pushed)}",
            {
                "action": "send",
                "channel": _CHANNEL,
                "summary": f"What a {kind_of(asked)} brings before its reply, any number of times, with its rid.",
                "messages": [{"$ref": f"{_MESSAGES}{kind_of(pushed)}"}],
            },
        )
    yield (
        "end",
        {
            "action": "send",
            "channel": _CHANNEL,
            "summary": "Why the server ends the connection, with a rid of 0, before it closes it.",
            "messages": [{"$ref": f"{_MESSAGES}{kind_of(Error)}"}],
        },
    )


def _message(source: type[Struct]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": kind_of(source), "title": source.__name__}
    if _words_of(source):
        found["summary"] = _words_of(source)
    return found | {
        "contentType": "application/json",
        "payload": {"$ref": f"{_SCHEMAS}{source.__name__}"},
        "correlationId": {"location": "$message.payload#/rid"},
    }


def _words_of(source: type[Struct]) -> str:
    """The docstring of its own; msgspec gives others theirs."""
    own = source.__dict__.get("__doc__")
    return inspect.cleandoc(own) if isinstance(own, str) and not own.startswith(f"{source.__name__}(") else ""


# --- schemas ---


def _schemas() -> dict[str, Any]:
    mirrored = [*[given(source) for source in REQUESTS], *[told(source) for source in REPLIES]]
    _, components = msgspec.json.schema_components(mirrored, ref_template=_SCHEMAS + "{name}")
    words = _words(requests) | _words(json_messages)
    sources = _sources()
    found: dict[str, Any] = {"Number": _NUMBER, "GivenNumber": _GIVEN_NUMBER}
    for name, schema in sorted(components.items()):
        source = sources.get(name)
        found[name] = _told_well(schema, words.get(name.removeprefix("Given"), {}) | words.get(name, {}), source)
    return found


def _sources() -> dict[str, type[Struct]]:
    """The wire types by the names of their schemas."""
    found = {
        name: value
        for name, value in vars(requests).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }
    return found | {"GivenQueueSettings": requests.QueueSettings}


def _told_well(schema: dict[str, Any], words: dict[str, str], source: type[Struct] | None) -> dict[str, Any]:
    """The schema of one struct with shared numbers, defaults and what its fields mean."""
    found = dict(schema)
    if source is not None:
        if _words_of(source):
            found["description"] = _words_of(source)
        if source.__struct_config__.array_like:
            tag = source.__struct_config__.tag
            fields = [field.name for field in msgspec.structs.fields(source)]
            found["x-binary"] = {"fields": fields} if tag is None else {"kind": tag, "fields": ["kind", *fields]}
    properties = {}
    for name, field in schema.get("properties", {}).items():
        extra: dict[str, Any] = {"description": words[name]} if name in words else {}
        if source is not None and schema.get("additionalProperties") is False:
            extra |= _default(source, name)
        properties[name] = _with(_shared(field), extra)
    return found | {"properties": properties}


def _default(source: type[Struct], name: str) -> dict[str, Any]:
    if name in DEFAULTS.get(source, {}):
        return {"default": DEFAULTS[source][name]}
    field = next((field for field in msgspec.structs.fields(source) if field.name == name), None)
    if field is None or field.default is msgspec.NODEFAULT:
        return {}
    default = field.default
    return {"default": to_builtins(default) if isinstance(default, msgspec.Struct) else default}


def _with(schema: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    # Words beside a reference are not read.
    return {"allOf": [schema], **extra} if extra and "$ref" in schema else schema | extra


def _shared(schema: Any) -> Any:  # noqa: ANN401  a part of a schema
    """The same with references to the two kinds of number, which would stand there a hundred times."""
    if isinstance(schema, list):
        return [_shared(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("pattern") == _NUMBER["pattern"]:
        return {"$ref": f"{_SCHEMAS}Number"}
    if "anyOf" in schema:
        members = cast("list[Any]", _shared(schema["anyOf"]))
        rest = [one for one in members if one != {"$ref": f"{_SCHEMAS}Number"} and one.get("type") != "integer"]
        if len(members) - len(rest) == 2:
            members = [{"$ref": f"{_SCHEMAS}GivenNumber"}, *rest]
        if len(members) == 1:
            return members[0]
        schema = {**schema, "anyOf": members}
    found = {key: value if key == "anyOf" else _shared(value) for key, value in schema.items()}
    if "prefixItems" in found:
        # AsyncAPI's schemas are those of draft 7, where a tuple is said like this.
        found |= {"items": found.pop("prefixItems"), "additionalItems": False}
    if "discriminator" in found:
        found["discriminator"] = found["discriminator"]["propertyName"]
    return found


def _words(module: ModuleType) -> dict[str, dict[str, str]]:
    """What is said of each field, by class and field: the text that stands behind it in the source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found.setdefault(node.name, {})[field.target.id] = inspect.cleandoc(text)
                    case _:
                        pass
    found.setdefault("Error", {})["code"] = "Codes known by this version: " + ", ".join(
        [f"{code} (retriable)" if is_retriable else code for code, is_retriable in sorted(CODES.items())]
    )
    return found
