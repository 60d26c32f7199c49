"""The document of the client protocol is the one that is checked in, and leaves nothing out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from logbroker.server.asyncapi import document
from logbroker.server.closing import CloseCode
from logbroker.wire.failures import CODES
from logbroker.wire.json_types import REPLIES, REQUESTS, given, kind_of, told
from logbroker.wire.requests import PUSHES_OF, REPLY_OF, AnyReply, AnyRequest, Error
from tests.unit.wire.test_json_types import GOLDEN, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).resolve().parents[3] / "docs" / "asyncapi.json"
DOCUMENT = document()
SCHEMAS = DOCUMENT["components"]["schemas"]


def parts(value: object) -> Iterator[dict[str, Any]]:
    """Every object anywhere in it."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from parts(item)
    elif isinstance(value, list):
        for item in value:
            yield from parts(item)


def resolved(reference: str) -> Any:  # noqa: ANN401  a part of the document
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_the_page_is_what_is_generated() -> None:
    assert json.loads(PAGE.read_text(encoding="utf-8")) == DOCUMENT, "run: logbroker asyncapi > docs/asyncapi.json"


@pytest.mark.parametrize("source", [*REQUESTS, *REPLIES])
def test_every_request_and_reply_is_a_message_with_all_its_fields(source: type[AnyRequest | AnyReply]) -> None:
    message = DOCUMENT["components"]["messages"][kind_of(source)]
    schema = resolved(message["payload"]["$ref"])
    names = [field.name for field in msgspec.structs.fields(source)]
    assert set(names) | {"kind"} <= set(schema["properties"])
    assert schema["properties"]["kind"] == {"enum": [kind_of(source)]}
    assert schema["x-binary"] == {"kind": source.__struct_config__.tag, "fields": ["kind", *names]}
    mirrored = given(source) if source in REQUESTS else told(source)
    required = {field.name for field in msgspec.structs.fields(mirrored) if field.required}
    assert set(schema["required"]) == required | {"kind"}


@pytest.mark.parametrize("source", REQUESTS)
def test_every_request_is_an_operation_with_its_reply_or_an_error(source: type[AnyRequest]) -> None:
    operation = DOCUMENT["operations"][kind_of(source)]
    messages = [resolved(one["$ref"]) for one in operation["reply"]["messages"]]
    payloads = [resolved(one["$ref"])["payload"]["$ref"].rpartition("/")[2] for one in messages]
    assert payloads == [REPLY_OF[source].__name__, Error.__name__]


def test_what_is_pushed_is_an_operation_of_the_server() -> None:
    for source, pushed in PUSHES_OF.items():
        operation = DOCUMENT["operations"][f"push_{kind_of(pushed)}"]
        assert operation["action"] == "send"
        assert f"a {kind_of(source)} brings" in operation["summary"]
        assert operation["messages"] == [{"$ref": f"#/channels/stream/messages/{kind_of(pushed)}"}]


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    references = [part["$ref"] for part in parts(DOCUMENT) if "$ref" in part]
    for reference in references:
        assert isinstance(resolved(reference), dict), reference
    used = {reference.rpartition("/")[2] for reference in references if "/schemas/" in reference}
    assert used == set(SCHEMAS)


def test_nothing_in_it_is_newer_than_the_schemas_that_asyncapi_has() -> None:
    assert not [part for part in parts(DOCUMENT) if "prefixItems" in part or "$defs" in part]
    assert {type(part["discriminator"]) for part in parts(DOCUMENT) if "discriminator" in part} == {str}


def test_errors_and_close_codes_are_all_named() -> None:
    words = SCHEMAS["Error"]["properties"]["code"]["description"]
    assert all(code in words for code in CODES)
    assert "not_leader (retriable)" in words
    assert DOCUMENT["channels"]["stream"]["x-close-codes"] == {str(code.value): code.name.lower() for code in CloseCode}


def test_what_the_source_says_of_a_field_is_in_it() -> None:
    assert SCHEMAS["Received"]["description"].startswith("The body is the batches")
    assert SCHEMAS["Hello"]["properties"]["session"]["description"].startswith("Owner of the connection")
    assert SCHEMAS["Receive"]["properties"]["hide_ms"]["default"] == 30_000
    assert SCHEMAS["GivenQueueSettings"]["properties"]["retention_ms"]["default"] == 345_600_000


def fits(value: Any, schema: dict[str, Any]) -> bool:  # noqa: ANN401  any JSON
    """Whether a value is of a schema, as far as the document's go."""
    if "$ref" in schema:
        return fits(value, resolved(schema["$ref"]))
    if "allOf" in schema:
        return all(fits(value, one) for one in schema["allOf"])
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    match schema["type"]:
        case "object":
            properties = schema["properties"]
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= set(value)
                and all(name in properties and fits(item, properties[name]) for name, item in value.items())
            )
        case "array":
            items = schema["items"]
            if isinstance(items, list):
                return len(value) == len(items) and all(map(fits, value, items))
            return isinstance(value, list) and all(fits(item, items) for item in value)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case _:
            return isinstance(value, int)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_texts_are_of_its_schemas(name: str) -> None:
    source = type(VALUES[name])
    found = GOLDEN[name] | (
        {"messages": []} if kind_of(source) in ("produce", "received", "delivered", "peeked") else {}
    )
    assert fits(found, SCHEMAS[source.__name__])
