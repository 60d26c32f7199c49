"""The one error a simulated run ends with when the system broke a promise.

It must know nothing of the cluster: checkers, cluster and scripts all raise it.
"""

from __future__ import annotations

from typing import NoReturn, final


@final
class Violation(Exception):
    """A promise of the system was broken; `rule` names the promise in a few words."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule
        self.message = message


def require(condition: bool, rule: str, message: str) -> None:
    """Raise Violation where `condition` is false; not for hot paths, because `message` is always built."""
    if not condition:
        raise Violation(rule, message)


def broken(rule: str, message: str) -> NoReturn:
    """Raise Violation; for hot paths that build the message only when it is needed."""
    raise Violation(rule, message)
