"""The JSON form of every request and reply, made from the types in `requests` and from nothing else.

A struct that is an array on the binary wire is an object here, with the names of its fields; its kind is the name of
its class in small letters. Numbers are told as text, always, and taken in either form (`json_numbers`). What a person
types by hand may leave out what `DEFAULTS` fills in. Only the messages of a produce, a receive and a delivery have a
form of their own, in `json_messages`; on the binary wire they are no part of a header either.
"""

from __future__ import annotations

import re
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, Union, cast, final, get_args, get_origin

import msgspec
from msgspec import Struct, defstruct

from logbroker.errors import InvalidArgumentError, RemoteProtocolError
from logbroker.wire.json_messages import DeliveredMessage, GivenMessages
from logbroker.wire.json_numbers import GivenNumber, NumberAsText, read_number
from logbroker.wire.requests import (
    Ack,
    AnyReply,
    AnyRequest,
    Cancel,
    CreateQueue,
    Delivered,
    Extend,
    ListDead,
    MoveMessages,
    Nack,
    PauseGroup,
    Peek,
    Peeked,
    Produce,
    PurgeGroup,
    QueueSettings,
    Receive,
    Received,
    Reject,
    Release,
    ResumeGroup,
    Revive,
    Rewind,
    Subscribe,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULTS: dict[type[Struct], dict[str, object]] = {
    Produce: {"partition": 0},
    Receive: {
        "partition": 0,
        "group": "default",
        "max_count": 10,
        "max_bytes": 256 * 1024,
        "hide_ms": 30_000,
        "wait_ms": 0,
        # A receive without a session is another one each time.
        "session": 0,
        "request_id": 0,
    },
    Ack: {"partition": 0, "group": "default"},
    Nack: {"partition": 0, "group": "default"},
    Extend: {"partition": 0, "group": "default"},
    Release: {"partition": 0, "group": "default"},
    Rewind: {"group": "default"},
    Reject: {"partition": 0, "group": "default"},
    ListDead: {"partition": 0, "group": "default"},
    Revive: {"partition": 0, "group": "default"},
    MoveMessages: {"partition": 0, "group": "default", "to_partition": 0},
    Subscribe: {
        "partition": 0,
        "group": "default",
        "hide_ms": 30_000,
        "credit_bytes": 4 * 1024 * 1024,
        "max_count": 10,
        "max_bytes": 256 * 1024,
    },
    Peek: {"partition": 0, "group": "default", "max_count": 10, "max_bytes": 256 * 1024},
    PauseGroup: {"group": "default"},
    ResumeGroup: {"group": "default"},
    PurgeGroup: {"group": "default"},
    Cancel: {"partition": 0},
    CreateQueue: {"settings": {}},
}
"""What may be left out in JSON and not in binary."""

EXTRA: dict[type[Struct], tuple[tuple[str, Any], ...]] = {
    Produce: tuple((field.name, field) for field in msgspec.structs.fields(GivenMessages)),
    Received: (("messages", list[DeliveredMessage]),),
    Delivered: (("messages", list[DeliveredMessage]),),
    Peeked: (("messages", list[DeliveredMessage]),),
}
"""What stands in the body on the binary wire."""

REQUESTS: tuple[type[AnyRequest], ...] = get_args(AnyRequest)
REPLIES: tuple[type[AnyReply], ...] = get_args(AnyReply)

_Read: TypeAlias = "Callable[[Any], Any]"
_S = TypeVar("_S", bound=Struct)


def kind_of(source: type[Struct]) -> str:
    """The name of a kind: `create_queue` for CreateQueue, `time` for TimeTarget."""
    name = source.__name__.removesuffix("Target")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@final
class Head(Struct, frozen=True, gc=False):
    """What has to be known of a request before the rest of it is looked at."""

    kind: str
    rid: GivenNumber


REQUEST_OF_KIND: dict[str, type[AnyRequest]] = {kind_of(source): source for source in REQUESTS}


# --- types ---


@cache
def given(source: type[Struct]) -> type[Struct]:
    """The type of what a client writes: nothing unknown in it, and numbers in either form."""
    return _mirror(source, GivenNumber, given, is_given=True)


@cache
def told(source: type[Struct]) -> type[Struct]:
    """The type of what a server writes: every field is there, and every number is text."""
    return _mirror(source, NumberAsText, told, is_given=False)


def _mirror(
    source: type[Struct], number: object, mirror: Callable[[type[Struct]], type[Struct]], *, is_given: bool
) -> type[Struct]:
    defaults = DEFAULTS.get(source, {})
    fields: list[Any] = []
    for field in msgspec.structs.fields(source):
        mapped = _mapped(field.type, number, mirror)
        if not is_given:
            fields.append((field.name, mapped))
        elif field.name in defaults or not field.required:
            # Read by the source itself, or by `DEFAULTS`: what is not there has to be seen not to be there.
            fields.append((field.name, mapped | msgspec.UnsetType, msgspec.UNSET))
        else:
            fields.append((field.name, mapped))
    for name, extra in EXTRA.get(source, ()):
        if isinstance(extra, msgspec.structs.FieldInfo):
            fields.append((name, extra.type) if extra.required else (name, extra.type, extra.default))
        else:
            fields.append((name, extra))
    is_tagged = source.__struct_config__.tag is not None
    # Settings are given in one form and told in another; a document of both needs two names.
    name = "GivenQueueSettings" if is_given and source is QueueSettings else source.__name__
    return defstruct(
        name,
        fields,
        namespace={"__doc__": source.__doc__ if source.__dict__.get("__doc__") else ""},
        module=__name__,
        tag_field="kind" if is_tagged else None,
        tag=kind_of(source) if is_tagged else None,
        forbid_unknown_fields=is_given,
        kw_only=True,
        frozen=True,
    )


def _mapped(found: Any, number: Any, mirror: Callable[[type[Struct]], type[Struct]]) -> Any:  # noqa: ANN401  annotations
    """The same annotation with numbers and structs in their JSON form."""
    if _is_number(found):
        return number
    origin = get_origin(found)
    if origin is Annotated or found in (bool, str, NoneType):
        return found
    inner = tuple([_mapped(argument, number, mirror) for argument in get_args(found)])
    if origin in (Union, UnionType):
        return Union[inner]  # noqa: UP007  made from a tuple
    if origin in (list, tuple):
        return origin[inner]
    return mirror(found)


def _is_number(found: object) -> bool:
    return get_origin(found) is Annotated and get_args(found)[0] is int


# --- values in ---


@cache
def _decoder(source: type[Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(given(source))


_head_decoder = msgspec.json.Decoder(Head)


def read_head(text: bytes) -> Head:
    """Give kind and rid of a request, whatever else is in it.

    Raises:
        RemoteProtocolError: it has none, so that nobody could be answered.
    """
    try:
        return _head_decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"a message is a JSON object with kind and rid: {_words(error)}") from error


def read_request(head: Head, text: bytes) -> tuple[AnyRequest, GivenMessages | None]:
    """Give the request, and what is to be produced where it is a Produce.

    Raises:
        InvalidArgumentError: no such kind, or a field that is missing, unknown, or out of its bounds.
    """
    source = REQUEST_OF_KIND.get(head.kind)
    if source is None:
        raise InvalidArgumentError(
            f"there is no kind {head.kind[:64]!r} of request", hint=f"kinds are {', '.join(sorted(REQUEST_OF_KIND))}"
        )
    try:
        found = _decoder(source).decode(text)
    except (ValueError, RecursionError) as error:
        fields = ", ".join([field.name for field in msgspec.structs.fields(given(source))])
        raise InvalidArgumentError(f"{head.kind}: {_words(error)}", hint=f"{head.kind} takes {fields}") from error
    request: AnyRequest = _reader(source, "$")(found)
    if source is not Produce:
        return request, None
    names = [field.name for field in msgspec.structs.fields(GivenMessages)]
    return request, GivenMessages(**{name: getattr(found, name) for name in names})


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "arrays and objects stand too deep in one another"
    return "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


@cache
def _reader(found: Any, where: str) -> _Read:  # noqa: ANN401  annotations
    """What turns a value of the mirrored type into one of the type itself; `where` is for its errors."""
    if _is_number(found):
        return lambda value: read_number(value, where)
    origin, inner = get_origin(found), get_args(found)
    if origin is Annotated or found in (bool, str):
        return lambda value: value
    if origin in (Union, UnionType):
        return _union_reader(inner, where)
    if origin is list:
        read = _reader(inner[0], f"{where}[..]")
        return lambda value: [read(item) for item in value]
    if origin is tuple:
        reads = [_reader(argument, f"{where}[{place}]") for place, argument in enumerate(inner)]
        return lambda value: tuple([read(item) for read, item in zip(reads, value, strict=True)])
    return _struct_reader(found, where)


def _union_reader(members: tuple[Any, ...], where: str) -> _Read:
    structs = {given(member): _reader(member, where) for member in members if _is_struct(member)}
    if structs:
        return lambda value: structs[type(value)](value)
    # One type, or none.
    read = _reader(next(member for member in members if member is not NoneType), where)
    return lambda value: None if value is None else read(value)


def _is_struct(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Struct)


def _struct_reader(source: type[_S], where: str) -> Callable[[Any], _S]:
    reads = [(field.name, _reader(field.type, f"{where}.{field.name}")) for field in msgspec.structs.fields(source)]
    defaults = {
        field.name: field.type() if DEFAULTS[source][field.name] == {} else DEFAULTS[source][field.name]
        for field in msgspec.structs.fields(source)
        if field.name in DEFAULTS.get(source, {})
    }

    def read(value: Any) -> _S:  # noqa: ANN401  of the mirrored type
        found = dict(defaults)
        for name, read_field in reads:
            item = getattr(value, name)
            if item is not msgspec.UNSET:
                found[name] = read_field(item)
        return source(**found)

    return read


# --- values out ---


def to_builtins(value: Struct) -> dict[str, Any]:
    """A request or a reply as the object that stands for it in JSON."""
    # What a struct becomes; other types become other things.
    return cast("dict[str, Any]", _writer(type(value))(value))


@cache
def _writer(found: Any) -> Callable[[Any], Any]:  # noqa: ANN401  annotations
    if _is_number(found):
        return str
    origin, inner = get_origin(found), get_args(found)
    if origin is Annotated or found in (bool, str):
        return lambda value: value
    if origin in (Union, UnionType):
        if any(_is_struct(member) for member in inner):
            writers = {member: _writer(member) for member in inner}
            return lambda value: writers[type(value)](value)
        write_member = _writer(next(member for member in inner if member is not NoneType))
        return lambda value: None if value is None else write_member(value)
    if origin is list:
        write_item = _writer(inner[0])
        return lambda value: [write_item(item) for item in value]
    if origin is tuple:
        writes = [_writer(argument) for argument in inner]
        return lambda value: [write(item) for write, item in zip(writes, value, strict=True)]
    return _struct_writer(found)


def _struct_writer(source: type[Struct]) -> Callable[[Any], dict[str, Any]]:
    fields = [(field.name, _writer(field.type)) for field in msgspec.structs.fields(source)]
    head = {"kind": kind_of(source)} if source.__struct_config__.tag is not None else {}

    def write(value: Any) -> dict[str, Any]:  # noqa: ANN401  of the source's type
        return head | {name: write_field(getattr(value, name)) for name, write_field in fields}

    return write
