"""Messages of a peer that exists only in the test."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from logbroker.entry import EntryKind
from logbroker.ids import Index, ReplicaId, Term
from logbroker.raft.messages import Message, MessageKind
from tests.raft_kit.memory_log import make_entry

if TYPE_CHECKING:
    from logbroker.entry import Entry
    from logbroker.raft.messages import SnapshotMeta


@final
class Peer:
    """Replica `number`, talking to replica `to`."""

    def __init__(self, number: int, *, to: int = 1) -> None:
        self.number = ReplicaId(number)
        self.to = ReplicaId(to)

    def append(self, term: int, after: tuple[int, int], *terms: int, commit: int = 0) -> Message:
        """Entries of `terms` after the entry (index, term) `after`."""
        index, log_term = after
        entries = [
            make_entry(EntryKind.DATA, place, entry_term) for place, entry_term in enumerate(terms, start=index + 1)
        ]
        return self.append_entries(term, (index, log_term), entries, commit=commit)

    def append_entries(self, term: int, after: tuple[int, int], entries: list[Entry], *, commit: int = 0) -> Message:
        return Message(
            MessageKind.APPEND,
            self.to,
            self.number,
            Term(term),
            log_term=Term(after[1]),
            index=Index(after[0]),
            commit=Index(commit),
            entries=entries,
        )

    def accepted(self, term: int, index: int) -> Message:
        return Message(MessageKind.APPEND_RESPONSE, self.to, self.number, Term(term), index=Index(index))

    def rejected(self, term: int, index: int, *, hint: int, hint_term: int) -> Message:
        return Message(
            MessageKind.APPEND_RESPONSE,
            self.to,
            self.number,
            Term(term),
            log_term=Term(hint_term),
            index=Index(index),
            reject=True,
            reject_hint=Index(hint),
        )

    def heartbeat(self, term: int, *, commit: int = 0, context: int = 0) -> Message:
        return Message(MessageKind.HEARTBEAT, self.to, self.number, Term(term), commit=Index(commit), context=context)

    def heartbeat_response(self, term: int, *, context: int = 0) -> Message:
        return Message(MessageKind.HEARTBEAT_RESPONSE, self.to, self.number, Term(term), context=context)

    def vote_request(self, term: int, last: tuple[int, int], *, pre: bool = False, transfer: bool = False) -> Message:
        """A request by somebody whose log ends at (index, term) `last`."""
        return Message(
            MessageKind.PRE_VOTE if pre else MessageKind.VOTE,
            self.to,
            self.number,
            Term(term),
            log_term=Term(last[1]),
            index=Index(last[0]),
            campaign_transfer=transfer,
        )

    def vote(self, term: int, *, pre: bool = False, reject: bool = False) -> Message:
        kind = MessageKind.PRE_VOTE_RESPONSE if pre else MessageKind.VOTE_RESPONSE
        return Message(kind, self.to, self.number, Term(term), reject=reject)

    def snapshot(self, term: int, snapshot: SnapshotMeta | None) -> Message:
        return Message(MessageKind.SNAPSHOT, self.to, self.number, Term(term), snapshot=snapshot)

    def timeout_now(self, term: int) -> Message:
        return Message(MessageKind.TIMEOUT_NOW, self.to, self.number, Term(term))
