"""Loads logbroker through its public client: `python -m tools.bench.drivers.logbroker JOB`.

Messages are Python objects until the client takes them; encoding and compression are part of the measured time.
"""

from __future__ import annotations

import itertools
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from trio_websocket import open_websocket_url

from logbroker_client import connect
from logbroker_client.messages import nack_order
from tools.bench.drivers.job import IDLE_S, Job, Received, Role, Source, Work, run_driver
from tools.bench.latency import Latencies
from tools.bench.systems.system import BenchError

_LONG_HIDE_S = 43_200.0
_LEASES_ON_THEIR_WAY = 100
_MAX_TEXT_BYTES = 64 << 20

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from logbroker_client import Producer


def _produce(work: Work) -> None:
    trio.run(_produce_async, work)


async def _produce_async(work: Work) -> None:
    job = work.job
    if job.connections > 1:
        await _produce_apart(work)
        return
    source = Source(job)
    latencies = Latencies()
    async with connect(job.endpoints) as client, client.producer(job.queues[0]) as producer:
        await _send_all(producer, job, source, 0, job.warm_count, lambda _start, _taken, _count: None)
        done: list[tuple[int, int, int]] = []
        await trio.to_thread.run_sync(work.begin)
        await _send_all(producer, job, source, 0, job.count, lambda start, end, count: done.append((start, end, count)))
        work.end()
    for start_ns, end_ns, count in done:
        latencies.add_ns(end_ns - start_ns, count)
    work.report(latencies)


async def _produce_apart(work: Work) -> None:
    """As many clients as there are connections, each of which waits for every message."""
    job = work.job
    source = Source(job)
    latencies = Latencies()
    done_ns: list[int] = []
    number = 0

    async def send_on(producer: Producer) -> None:
        nonlocal number
        while number < job.count:
            mine = number
            number += 1
            sent_ns = time.perf_counter_ns()
            await producer.send(source.message(mine, sent_ns))
            done_ns.append(time.perf_counter_ns() - sent_ns)

    async with AsyncExitStack() as stack:
        producers = []
        for position in range(job.connections):
            # Not all to the same node first.
            first = position % len(job.endpoints)
            client = await stack.enter_async_context(connect([*job.endpoints[first:], *job.endpoints[:first]]))
            producers.append(await stack.enter_async_context(client.producer(job.queues[0])))
            await producers[-1].send(source.message(0, 0))
        await trio.to_thread.run_sync(work.begin)
        async with trio.open_nursery() as nursery:
            for producer in producers:
                nursery.start_soon(send_on, producer)
        work.end()
        for duration_ns in done_ns:
            latencies.add_ns(duration_ns)
        work.report(latencies)


async def _send_all(
    producer: Producer, job: Job, source: Source, first: int, count: int, note: Callable[[int, int, int], None]
) -> None:
    """Send `count` messages, at most `job.window` at a time without their id; `note` is told start, end, count."""
    number = first
    end = first + count

    async def send_lists() -> None:
        nonlocal number
        while number < end:
            start, taken = number, min(job.list_count, end - number)
            number += taken
            sent_ns = time.perf_counter_ns()
            ids = await producer.send_many(source.messages(start, taken, sent_ns))
            note(sent_ns, time.perf_counter_ns(), len(ids))

    async def send_each() -> None:
        nonlocal number
        while number < end:
            mine = number
            number += 1
            sent_ns = time.perf_counter_ns()
            await producer.send(source.message(mine, sent_ns))
            note(sent_ns, time.perf_counter_ns(), 1)

    sender: Callable[[], Awaitable[None]] = send_lists if job.list_count else send_each
    async with trio.open_nursery() as nursery:
        for _ in range(job.window // max(job.list_count, 1)):
            nursery.start_soon(sender)


def _paced(work: Work) -> None:
    trio.run(_paced_async, work)


async def _paced_async(work: Work) -> None:
    job = work.job
    source = Source(job)
    latencies = Latencies()
    async with connect(job.endpoints) as client, client.producer(job.queues[0]) as producer:
        timeline: list[tuple[int, int]] = []

        async def send(number: int, planned_ns: int) -> None:
            await producer.send(source.message(number, planned_ns))
            timeline.append((planned_ns, time.perf_counter_ns()))

        await _send_all(producer, job, source, 0, job.warm_count, lambda _start, _taken, _count: None)
        await trio.to_thread.run_sync(work.begin)
        began_ns = time.perf_counter_ns()
        async with trio.open_nursery() as nursery:
            for number in range(job.count):
                planned_ns = began_ns + int(number / job.rate * 1e9)
                ahead_ns = planned_ns - time.perf_counter_ns()
                if ahead_ns > 0:
                    await trio.sleep(ahead_ns / 1e9)
                nursery.start_soon(send, number, planned_ns)
        work.end()
    for planned_ns, confirmed_ns in timeline:
        latencies.add_ns(confirmed_ns - planned_ns)
    work.report(latencies, timeline=timeline if job.keeps_timeline else ())


def _consume(work: Work) -> None:
    trio.run(_consume_async, work)


async def _consume_async(work: Work) -> None:
    job = work.job
    received = Received()
    async with connect(job.endpoints) as client:
        await trio.to_thread.run_sync(work.begin)
        async with client.consumer(job.queues[0]) as consumer:
            count = 0
            with trio.move_on_after(IDLE_S) as patience:
                async for message in consumer:
                    received.add(message.value or b"", time.perf_counter_ns())
                    message.ack_nowait()
                    count += 1
                    if count == job.count:
                        break
                    if count % 1000 == 0:
                        patience.deadline = trio.current_time() + IDLE_S
            await consumer.flush()
            work.end()
            if consumer.stale_count or consumer.unknown_count:
                work.faults.append(f"{consumer.stale_count} acks were stale, {consumer.unknown_count} unknown")
    latencies, doubled_count = received.check(work)
    work.report(latencies, doubled_count=doubled_count)


def _receive(work: Work) -> None:
    trio.run(_receive_async, work)


async def _receive_async(work: Work) -> None:
    """One request at a time, over JSON: a consumer of the client would have the next one on its way."""
    job = work.job
    latencies = Latencies()
    url = f"{job.endpoints[0]}/v1/stream"
    async with open_websocket_url(url, subprotocols=["logbroker.v1.json"], max_message_size=_MAX_TEXT_BYTES) as socket:
        rids = itertools.count(1)

        async def ask(kind: str, **fields: object) -> dict[str, Any]:
            request = {"kind": kind, "rid": next(rids), **fields}
            await socket.send_message(msgspec.json.encode(request).decode())
            reply = msgspec.json.decode(await socket.get_message())
            if reply["kind"] == "error":
                raise BenchError(f"{kind}: {reply['message']}")
            return reply  # type: ignore[no-any-return]  # an object, in this protocol

        await ask("hello", token="")
        await trio.to_thread.run_sync(work.begin)
        for _ in range(job.count):
            asked_ns = time.perf_counter_ns()
            reply = await ask("receive", queue=job.queues[0], max_count=1, wait_ms=5_000)
            latencies.add_ns(time.perf_counter_ns() - asked_ns)
            held = [leased[:2] for part in reply["parts"] for leased in part["ranges"]]
            await ask("ack", queue=job.queues[0], items=[[reply["lease"], held]])
        work.end()
    work.report(latencies)


def _hold(work: Work) -> None:
    trio.run(_lease_each, work, None)


def _postpone(work: Work) -> None:
    trio.run(_lease_each, work, 3_600.0)


async def _lease_each(work: Work, delay_s: float | None) -> None:
    """Lease one by one: keep the leases, or nack each with a delay of its own, in steps of a millisecond."""
    job = work.job
    async with connect(job.endpoints) as client:
        await trio.to_thread.run_sync(work.begin)
        async with client.consumer(
            job.queues[0], hide=_LONG_HIDE_S, max_messages=1, prefetch=_LEASES_ON_THEIR_WAY
        ) as consumer:
            for number in range(job.count):
                with trio.fail_after(IDLE_S):
                    batch = await consumer.receive()
                if delay_s is not None:
                    batch.settle_nowait(nack_order(delay_s + number % 1_000_000 / 1000, ""), batch.ranges())
            await consumer.flush()
            work.end()
    work.report(Latencies())


_ROLES: dict[Role, Callable[[Work], None]] = {
    "produce": _produce,
    "consume": _consume,
    "paced": _paced,
    "receive": _receive,
    "hold": _hold,
    "postpone": _postpone,
}

if __name__ == "__main__":
    run_driver(_ROLES)
