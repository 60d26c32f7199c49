"""Messages as lines of text: raw values, or NDJSON objects that `produce` reads and `consume` writes.

An object holds `value` and `key` as text, or `value_base64` and `key_base64` where they are not UTF-8, and `headers` as
an object, or as a list of [name, value] where a name stands twice or a value is not text. `produce` takes a `dedup_id`,
which is text; `consume` shows it as the header that it is. What `consume` adds (`id`, `lease` and so on) is ignored by
`produce`, so that one can be piped into the other.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError
from logbroker.record.dedup_ids import DEDUP_HEADER, check_dedup_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logbroker.record.batch import Headers
    from logbroker_client import Message, PeekedMessage

MAX_LINE_BYTES = 8 << 20

_ADDED = {"id", "queue", "partition", "offset", "append_ms", "append_time", "timestamp_ms", "deliveries", "lease"}
_KNOWN = _ADDED | {"value", "value_base64", "key", "key_base64", "headers", "dedup_id"}


def to_object(message: Message) -> dict[str, object]:
    """Give the NDJSON object of a delivered message.

    Raises:
        CorruptBatchError: the message cannot be read.
    """
    return {
        "id": str(message.id),
        "partition": message.partition,
        "offset": message.offset,
        "append_ms": message.append_ms,
        "deliveries": message.deliveries,
        "lease": message.lease,
        **content_of(message),
    }


def content_of(message: Message | PeekedMessage) -> dict[str, object]:
    """Give key, value and headers as they stand in such an object.

    Raises:
        CorruptBatchError: the message cannot be read.
    """
    return {**_text("key", message.key), **_text("value", message.value), **_headers_out(message.headers)}


def from_object(line: str) -> tuple[bytes | None, bytes | None, Headers]:
    """Read (value, key, headers) from one NDJSON line; a `dedup_id` becomes a header.

    A `value` that is not text is sent as compact JSON.

    Raises:
        InvalidArgumentError: it is not such an object.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgumentError(f"not a JSON object but {type(found).__name__}")
    unknown = sorted(found.keys() - _KNOWN)
    if unknown:
        raise InvalidArgumentError(
            f"unknown field {unknown[0]!r}; there are value, key, headers, dedup_id, value_base64, key_base64"
        )
    if "value" not in found and "value_base64" not in found:
        raise InvalidArgumentError("neither value nor value_base64 is there; null is a value")
    headers = _headers_in(found.get("headers")) + _dedup_header(found.get("dedup_id"))
    return _bytes("value", found), _bytes("key", found), headers


def _text(name: str, value: bytes | None) -> dict[str, object]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _bytes(name: str, found: Mapping[str, object]) -> bytes | None:
    encoded = found.get(f"{name}_base64")
    if encoded is not None:
        if found.get(name) is not None:
            raise InvalidArgumentError(f"{name} and {name}_base64 are both there")
        return _unbase64(encoded, f"{name}_base64")
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return _encode(value, name)
    if name == "key":
        raise InvalidArgumentError(f"key is {type(value).__name__}, not text")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _headers_out(headers: Headers) -> dict[str, object]:
    if not headers:
        return {}
    names = [name for name, _ in headers]
    is_text = all(_is_text(value) for _, value in headers)
    if is_text and len(set(names)) == len(names):
        return {"headers": {name: value if value is None else value.decode() for name, value in headers}}
    return {"headers": [[name, _header_value(value)] for name, value in headers]}


def _is_text(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _header_value(value: bytes | None) -> object:
    if value is None or _is_text(value):
        return value if value is None else value.decode()
    return {"base64": base64.b64encode(value).decode()}


def _headers_in(found: object) -> Headers:
    if found is None:
        return ()
    pairs = list(found.items()) if isinstance(found, dict) else found
    if not isinstance(pairs, list):
        raise InvalidArgumentError("headers are neither an object nor a list of [name, value]")
    return tuple(_header_in(pair) for pair in pairs)


def _dedup_header(dedup_id: object) -> Headers:
    if dedup_id is None:
        return ()
    if not isinstance(dedup_id, str):
        raise InvalidArgumentError(f"dedup_id is {type(dedup_id).__name__}, not text")
    return ((DEDUP_HEADER, check_dedup_id(_encode(dedup_id, "dedup_id"))),)


def _header_in(pair: object) -> tuple[str, bytes | None]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
        raise InvalidArgumentError(f"header {pair!r} is not [name, value]")
    name, value = pair
    if value is None:
        return name, None
    if isinstance(value, str):
        return name, _encode(value, f"header {name}")
    if isinstance(value, dict) and set(value) == {"base64"}:
        return name, _unbase64(value["base64"], f"header {name}")
    raise InvalidArgumentError(f"value of header {name} is {type(value).__name__}, not text")


def _encode(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name} holds half of a surrogate pair, which is no text") from error


def _unbase64(encoded: object, name: str) -> bytes:
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidArgumentError(f"{name} is not base64")
