"""Messages that were looked at and not leased, and the opening of what a peek brought."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from logbroker.errors import CorruptBatchError, LogBrokerError, RemoteProtocolError
from logbroker_client.histories import history_of
from logbroker_client.inbox import leases_no_more
from logbroker_client.messages import MessageId, contents_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.record.batch import Headers, Record
    from logbroker.wire.requests import Peeked
    from logbroker_client.histories import MessageHistory

PEEK_PAGE = 100
"""Messages of one answer."""
PEEK_PAGE_BYTES = 1024 * 1024
"""Batches of one answer."""


@final
@dataclass(frozen=True, slots=True)
class PeekedMessage:
    """A message as a consumer group has it: `available`, `leased`, `delayed`, `acked`, `dead`, `moving` or `moved`.

    `deliveries` is 0 for one that was never delivered. `visible_at_ms` is when a lease or a delay ends, in
    log time; it is 0 for the others.
    """

    id: MessageId
    state: str
    deliveries: int
    append_ms: int
    visible_at_ms: int
    _content: Record | LogBrokerError = field(repr=False)

    @property
    def partition(self) -> int:
        return self.id.partition

    @property
    def offset(self) -> int:
        return self.id.offset

    @property
    def corrupt(self) -> LogBrokerError | None:
        """Why the content cannot be read; None when it can."""
        return self._content if isinstance(self._content, LogBrokerError) else None

    @property
    def value(self) -> bytes | None:
        """As it was sent; None only if None was.

        Raises:
            CorruptBatchError: it cannot be read. So do `key` and `headers`.
        """
        return self._record().value

    @property
    def key(self) -> bytes | None:
        return self._record().key

    @property
    def headers(self) -> Headers:
        return self._record().headers

    @property
    def history(self) -> MessageHistory | None:
        """Where it was first and how it died, if it was moved here from another queue."""
        return history_of(self._record().headers)

    def _record(self) -> Record:
        content = self._content
        if isinstance(content, LogBrokerError):
            raise CorruptBatchError(f"{self.id} cannot be read: {content.message}", hint=content.hint)
        return content


def opened(queue: str, partition: int, reply: Peeked, body: bytes, *, max_count: int) -> Iterator[PeekedMessage]:
    """Give the messages of one answer, in order of offset.

    Raises:
        RemoteProtocolError: it shows more than was asked for, or a message without its state.
    """
    if not leases_no_more(reply, max_count):
        raise RemoteProtocolError(f"a peek at {queue}/{partition} shows more than {max_count} messages")
    start = 0
    found: list[tuple[int, int, int, Record | LogBrokerError]] = []
    for part in reply.parts:
        end = start + part.size_bytes
        for (first, stop, deliveries), records in contents_of(part, body[start:end]):
            for offset, content in zip(range(first, stop), records, strict=True):
                found.append((offset, deliveries, part.append_ms, content))
        start = end
    for offset, deliveries, append_ms, content in found:
        shown = next((shown for shown in reply.ranges if shown.start <= offset < shown.end), None)
        if shown is None:
            raise RemoteProtocolError(f"a peek at {queue}/{partition} does not say the state of message {offset}")
        place = MessageId(queue, partition, offset)
        yield PeekedMessage(place, shown.state, deliveries, append_ms, shown.visible_at_ms, content)
