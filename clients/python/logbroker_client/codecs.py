"""How values of a program become the bytes of messages, and back: `producer(codec=)`, `consumer(codec=)`.

A codec is two methods. Those here are for text, for what msgspec knows (dataclasses, `msgspec.Struct`, `TypedDict`, and
builtin types), and for pydantic models. What a codec raises is raised by `send` and by `message.body`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

import msgspec

if TYPE_CHECKING:
    from pydantic import BaseModel

_T = TypeVar("_T")
_M = TypeVar("_M", bound="BaseModel")


class MessageCodec(Protocol[_T]):
    """Both methods may be called from any thread, and take or give nothing that is kept."""

    def encode(self, body: _T, /) -> bytes:
        """Called when a message is sent; an exception means that nothing of the call was sent."""
        ...

    def decode(self, data: bytes, /) -> _T:
        """Called each time when `message.body` is read."""
        ...


@final
class TextCodec:
    """Text in UTF-8."""

    def encode(self, body: str, /) -> bytes:
        return body.encode()

    def decode(self, data: bytes, /) -> str:
        return data.decode()


@final
class JsonCodec(Generic[_T]):
    """JSON of one type, which is checked when a message is read: `msgspec.ValidationError` says what does not fit."""

    def __init__(self, kind: type[_T]) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(kind)

    def encode(self, body: _T, /) -> bytes:
        return self._encoder.encode(body)

    def decode(self, data: bytes, /) -> _T:
        return self._decoder.decode(data)


@final
class MsgpackCodec(Generic[_T]):
    """As `JsonCodec`, in MessagePack: smaller, and not to be read by eye."""

    def __init__(self, kind: type[_T]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)

    def encode(self, body: _T, /) -> bytes:
        return self._encoder.encode(body)

    def decode(self, data: bytes, /) -> _T:
        return self._decoder.decode(data)


@final
class ModelCodec(Generic[_M]):
    """JSON of a pydantic model; `pydantic.ValidationError` says what does not fit."""

    def __init__(self, model: type[_M]) -> None:
        self._model = model

    def encode(self, body: _M, /) -> bytes:
        return body.model_dump_json().encode()

    def decode(self, data: bytes, /) -> _M:
        return self._model.model_validate_json(data)
