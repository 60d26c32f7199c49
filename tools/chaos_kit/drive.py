"""Work that a fault needs beside the usual clients: enough writing to meet a full disk, and reading that meets rot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, final

import trio

from logbroker.errors import LogBrokerError, UnavailableError, UnknownOutcomeError
from logbroker_client import connect
from tools.chaos_kit.record import Outcome, Rewinding, Sent
from tools.chaos_kit.workload import key_of

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from logbroker_client import Client
    from logbroker_client.producer import Producer
    from tools.chaos_kit.faults import Arena
    from tools.chaos_kit.nodes import ChaosNode, Partition

# What has to happen within: produce refused, and taken again after there is room; an ack while it is refused.
REFUSE_S, TAKE_S, ACK_S = 40.0, 10.0, 10.0
# A scrubber leaves a node that has just started alone for some seconds, and then reads so little at once.
MEND_S = 60.0
_ROT_POLL_S = 0.2
_MINORITY_S = 8.0
_BULK_BYTES = 60_000
# Where produce goes on, what is written stays: at full speed it would soon fill the disks of the majority as well.
_BULK_EVERY_S = 0.05
_SEND_S = 1.0
_BACK_MS = 5_000
# Word of a refusal that an operator can act on.
_NO_ROOM = "disk room"


async def drive_full(arena: Arena, *, must_refuse: bool) -> None:
    """Write until produce is refused for want of room, then see receives, acks and a rewind go on.

    Where it need not be refused, write for a while, and see it taken.
    """
    started_s = trio.current_time()
    async with connect(arena.cluster.urls) as client:
        async with client.producer("orders", timeout=_SEND_S) as producer:
            if not must_refuse:
                await _write(arena, producer, seconds=_MINORITY_S, until_refused=False)
                _see_taken(arena, since_s=trio.current_time() - _MINORITY_S / 2)
                return
            is_refused = await _write(arena, producer, seconds=REFUSE_S, until_refused=True)
        if not is_refused:
            arena.findings.append(f"produce is not refused {REFUSE_S:.0f} s after the disks of a majority were full")
            return
        arena.measure("produce refused after the disks of a majority were full", trio.current_time() - started_s)
        await _see_acks(arena, client)


def _see_taken(arena: Arena, *, since_s: float) -> None:
    """Hold the cluster to its word that a minority without room refuses nothing for long."""
    for place, times in arena.record.confirms.items():
        if times[-1][1] < since_s:
            arena.findings.append(f"{place[0]}/{place[1]} refuses produce for good though a majority has room")


async def _write(arena: Arena, producer: Producer, *, seconds: float, until_refused: bool) -> bool:
    """Write until the time is over, or until something is refused for want of room; gives whether that was."""
    number = 0
    until_s = trio.current_time() + seconds
    partitions = len({place for place in arena.record.confirms if place[0] == "orders"})
    while trio.current_time() < until_s:
        place = ("orders", number % max(1, partitions))
        sent = _bulk_message(arena, place, number)
        number += 1
        try:
            message_id = await producer.send(sent.value, key=key_of(place[1], max(1, partitions), sent.sender))
        except UnknownOutcomeError as error:
            sent.outcome, sent.error = Outcome.UNKNOWN, str(error)
        except LogBrokerError as error:
            sent.outcome, sent.error = Outcome.REFUSED, str(error)
            if _NO_ROOM in str(error) and until_refused:
                return True
        else:
            arena.record.confirm(sent, offset=message_id.offset, now_s=trio.current_time())
        if not until_refused:
            await trio.sleep(_BULK_EVERY_S)
    return False


def _bulk_message(arena: Arena, place: Partition, number: int) -> Sent:
    sender = f"bulk.{len(arena.strikes)}.{place[1]}"
    value = f"{sender}.{number} ".encode() + arena.random.randbytes(_BULK_BYTES)
    sent = Sent(value, sender, number, place, trio.current_time())
    arena.record.sent.append(sent)
    return sent


async def _see_acks(arena: Arena, client: Client) -> None:
    """Make work for consumers, and see them do it."""
    asked_s = trio.current_time()
    with trio.move_on_after(ACK_S):
        await _rewind(arena, client, "orders", back_ms=_BACK_MS)
        # The consumers tell nobody but the record.
        while not any(  # noqa: ASYNC110
            settled.verb == "ack" and settled.outcome is Outcome.DONE and settled.started_s >= asked_s
            for settled in reversed(arena.record.settled[-200:])
        ):
            await trio.sleep(0.05)
        arena.measure("ack while produce is refused", trio.current_time() - asked_s)
        return
    arena.findings.append(f"no rewind and ack within {ACK_S:.0f} s while the disks are full")


async def _rewind(arena: Arena, client: Client, queue: str, *, back_ms: int | None, group: str = "audit") -> None:
    """By time, or with None to the first message."""
    now = datetime.now(tz=UTC)
    target = datetime(1970, 1, 2, tzinfo=UTC) if back_ms is None else now - timedelta(milliseconds=back_ms)
    target_ms = round(target.timestamp() * 1000)
    rewinding = Rewinding(group, queue, target_ms, trio.current_time())
    arena.record.rewound.append(rewinding)
    try:
        reply = await client.rewind(queue, to=target, group=group, clamp=True)
    except UnavailableError as error:
        rewinding.outcome, rewinding.error = Outcome.UNKNOWN, str(error)
    except LogBrokerError as error:
        rewinding.outcome, rewinding.error = Outcome.REFUSED, str(error)
    else:
        rewinding.answer(reply)


async def wait_taken(arena: Arena, since_s: float) -> None:
    """See every partition confirm something again."""
    with trio.move_on_after(TAKE_S):
        for times in arena.record.confirms.values():
            # The senders tell nobody but the record.
            while times[-1][1] < since_s:  # noqa: ASYNC110
                await trio.sleep(0.02)
        arena.measure("produce taken again after there was room", trio.current_time() - since_s)
        return
    arena.findings.append(f"produce is not taken everywhere {TAKE_S:.0f} s after there is room again")


async def read_again(arena: Arena) -> None:
    """Have every queue read from its start."""
    async with connect(arena.cluster.urls) as client:
        for queue in sorted({place[0] for place in arena.record.confirms}):
            await _rewind(arena, client, queue, back_ms=None)


@final
@dataclass(frozen=True, slots=True)
class Rot:
    """A byte of a file that was changed behind a node's back."""

    node: int
    path: Path
    at: int
    before: int
    at_s: float

    @property
    def is_mended(self) -> bool:
        """Whether the byte is what it was, or the whole file was given up for a better one."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.at)
                return file.read(1) == bytes((self.before,))
        except FileNotFoundError:
            return True


def flip_segments(node: ChaosNode, random: Random, *, count: int = 3) -> list[Rot]:
    """Flip a bit in each of some segments of a running node."""
    found = []
    paths = sorted(node.data_dir.glob("groups/*/*.segment"))
    for path in random.sample(paths, min(count, len(paths))):
        # Room that was reserved and not used is zeros.
        written = len(path.read_bytes().rstrip(b"\0"))
        if not written:
            continue
        with path.open("r+b") as file:
            at = random.randrange(written)
            file.seek(at)
            before = file.read(1)[0]
            file.seek(at)
            file.write(bytes((before ^ (1 << random.randrange(8)),)))
        found.append(Rot(node.number, path, at, before, time.monotonic()))
    return found


async def watch_rot(arena: Arena) -> None:
    """Note when each rot is repaired, until cancelled."""
    while True:
        note_mended(arena)
        await trio.sleep(_ROT_POLL_S)


def note_mended(arena: Arena) -> None:
    """Measure and forget what is repaired."""
    for rot in [rot for rot in arena.rot if rot.is_mended]:
        arena.rot.remove(rot)
        arena.measure("rot repaired", time.monotonic() - rot.at_s)


async def wait_mended(arena: Arena) -> None:
    """See all that rotted repaired while the nodes run."""
    with trio.move_on_after(MEND_S):
        note_mended(arena)
        while arena.rot:
            await trio.sleep(_ROT_POLL_S)
            note_mended(arena)
    arena.findings += [
        f"node {rot.node} has not repaired byte {rot.at} of {rot.path.parent.name}/{rot.path.name} "
        f"{time.monotonic() - rot.at_s:.0f} s after it was flipped"
        for rot in arena.rot
    ]
