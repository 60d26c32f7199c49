"""What Raft itself defines in the output of one interaction directive, without how it was printed.

Kept: messages sent, delivered and dropped, as multisets; of each replica, one after another, its roles and
leaders, its hard states (term, vote, commit), its configurations, and the entries it stored and applied; whatever the
directive was asked to show. Dropped: logger lines (but for the configuration, which is shown nowhere else), how work
was cut into turns, messages of a replica to itself or to its own threads, and texts of the Go interface.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, final

_LOGGER = re.compile(r"(DEBUG|INFO|WARN|ERROR|FATAL) ")
_CONFIGURATION = re.compile(r"INFO (\d+) switched to configuration (.*)")
_HEADING = re.compile(r"> (\d+) (handling Ready|receiving messages|processing append thread|processing apply thread)")
_MESSAGE = re.compile(r"(dropped: )?(\w+)->(\w+) Msg\w+ Term:")
_ENTRY = re.compile(r"\d+/\d+ Entry")
_SECTIONS: Final = {
    "Messages:": "sent",
    "Responses:": "sent",
    "Processing:": "processed",
    "Entries:": "stored",
    "CommittedEntries:": "applied",
    "handling Ready": "sent",
    "receiving messages": "delivered",
    "processing append thread": "processed",
    "processing apply thread": "processed",
}
_FIRST_SECTION: Final = {"deliver-msgs": "delivered", "raft-log": "log", "compact": "log"}
_THREADS: Final = frozenset({"AppendThread", "ApplyThread"})
_NOTHING: Final = frozenset(
    {
        "]",
        "ok",
        "no messages",
        "<empty Ready>",
        "no append work to perform",
        "no apply work to perform",
        "raft: cannot step as peer not found",
    }
)


@final
@dataclass(slots=True)
class Facts:
    multiset: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[str]] = field(default_factory=dict)
    # Every kept line in order, for the stricter comparison.
    lines: list[str] = field(default_factory=list)

    def add_row(self, key: str, line: str) -> None:
        self.rows.setdefault(key, []).append(line)

    def as_counter(self) -> Counter[str]:
        return self.multiset + Counter(f"{key}: {', '.join(values)}" for key, values in self.rows.items())


def read_facts(text: str, *, command: str) -> Facts:
    facts = Facts()
    node = ""
    section = _FIRST_SECTION.get(command, "sent")
    for line in _logical_lines(text):
        configuration = _CONFIGURATION.fullmatch(line)
        if configuration is not None:
            facts.add_row(f"{configuration[1]} configuration", configuration[2])
            continue
        heading = _HEADING.fullmatch(line)
        if heading is not None:
            node, section = f"{heading[1]} ", _SECTIONS[heading[2]]
        elif line in _SECTIONS:
            section = _SECTIONS[line]
        elif not _LOGGER.match(line) and line not in _NOTHING and not line.startswith("Ready MustSync="):
            _add(facts, line, node, section)
    return facts


def _logical_lines(text: str) -> list[str]:
    """Lines without indent; one that ends in an open list of entries, or that a snapshot follows, is made whole."""
    joined: list[str] = []
    open_list: list[str] | None = None
    for line in map(str.strip, text.splitlines()):
        if open_list is not None:
            if line.startswith("]"):
                joined[-1] += ", ".join(open_list) + line
                open_list = None
            else:
                open_list.append(line)
        elif line.startswith("Snapshot: "):
            joined[-1] += f" {line}"
        elif line:
            joined.append(line)
            open_list = [] if line.endswith(" Entries:[") else None
    return joined


def _add(facts: Facts, line: str, node: str, section: str) -> None:
    line = re.sub(r"EntryConfChange(V2)?\b", "EntryConfChange", line)
    line = re.sub(r"(EntryConfChange(?: \w\d+)*?) u\d+", r"\1", line)
    message = _MESSAGE.match(line)
    if message is not None:
        if message[2] != message[3] and not _THREADS & {message[2], message[3]}:
            facts.multiset[line if message[1] else f"{section} {line}"] += 1
            facts.lines.append(line)
        return
    facts.lines.append(line)
    if line.startswith("Lead:"):
        facts.add_row(f"{node}role", line)
    elif line.startswith("HardState "):
        facts.add_row(f"{node}hard state", line.removeprefix("HardState "))
    elif _ENTRY.match(line):
        facts.add_row(f"{node}{section}", line)
    else:
        facts.multiset[f"{node}{line}"] += 1
