"""Options of queues between the catalogue, which has numbers, and the wire, which has words where people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.errors import InvalidArgumentError
from logbroker.node.catalogue.options import BLOCK, OPTION_NAMES, ORDER_KEY, ORDER_NONE, SKIP, QueueOptions

if TYPE_CHECKING:
    from logbroker.wire.requests import QueueChanges, QueueSettings

_WORDS = {"order": {"none": ORDER_NONE, "key": ORDER_KEY}, "on_failure": {"block": BLOCK, "skip": SKIP}}


def option_numbers(given: QueueSettings | QueueChanges) -> dict[str, int | None]:
    """What a client gives of the options, by name.

    Raises:
        InvalidArgumentError: a word is none of its option.
    """
    return {name: _number(name, getattr(given, name)) for name in OPTION_NAMES}


def option_fields(options: QueueOptions) -> dict[str, int | str]:
    """The fields of `QueueSettings` for all options but those that name a queue."""
    fields: dict[str, int | str] = {name: getattr(options, name) for name in OPTION_NAMES}
    for name, words in _WORDS.items():
        fields[name] = next(word for word, number in words.items() if number == fields[name])
    return fields


def _number(name: str, value: int | str | None) -> int | None:
    if not isinstance(value, str):
        return value
    words = _WORDS[name]
    if value not in words:
        raise InvalidArgumentError(f"{name} {value[:100]!r} is not one of: {', '.join(words)}")
    return words[value]
