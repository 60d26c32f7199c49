"""Numbers in JSON: 63 bits, which a browser cannot hold, so they are told as text and taken in either form."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from logbroker.errors import InvalidArgumentError

SAFE_NUMBER = (1 << 53) - 1
"""The largest that a number of JavaScript holds exactly; what is larger has to be written as text."""
MAX_NUMBER = (1 << 63) - 1

NumberAsText = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,18})$",
        max_length=19,
        description=f"A whole number from 0 to {MAX_NUMBER}, as text.",
    ),
]
GivenNumber: TypeAlias = (
    Annotated[int, Meta(ge=0, le=SAFE_NUMBER, description=f"A whole number from 0 to {SAFE_NUMBER}.")] | NumberAsText
)


def read_number(number: int | str, where: str) -> int:
    """The number that was given in either form.

    Raises:
        InvalidArgumentError: it has more than 63 bits; `where` names the field.
    """
    value = int(number)
    if value > MAX_NUMBER:
        raise InvalidArgumentError(f"{where} is {value}, above {MAX_NUMBER}")
    return value
