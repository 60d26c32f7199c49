"""Loads logbroker through its public client: `python -m tools.bench.drivers.logbroker JOB`.

Messages are Python objects until the client takes them; encoding and compression are part of the measured time.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from logbroker_client import connect
from tools.bench.drivers.job import IDLE_S, Job, Received, Role, Source, Work, run_driver
from tools.bench.latency import Latencies

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


_ROLES: dict[Role, Callable[[Work], None]] = {"produce": _produce, "consume": _consume, "paced": _paced}

if __name__ == "__main__":
    run_driver(_ROLES)
