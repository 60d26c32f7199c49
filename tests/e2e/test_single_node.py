"""One real node and the real client: everything a user does, and everything a stranger might."""

from __future__ import annotations

import ssl
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from logbroker.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidArgumentError,
    LogBrokerError,
    NotFoundError,
    OffsetOutOfRangeError,
    ShuttingDownError,
    StaleLeaseError,
    UnauthenticatedError,
    UnavailableError,
)
from logbroker.record.batch import encode_values
from logbroker.wire.requests import (
    Delivered,
    Error,
    Hello,
    Produce,
    Produced,
    Receive,
    Received,
    RelativeTarget,
    Rewind,
    Rewound,
    Subscribe,
)
from logbroker_client import connect
from tests.e2e.kit import port_of, running, single
from tests.unit.server.auth_table import WANTED, about
from tests.unit.server.raw import raw_client

if TYPE_CHECKING:
    from pathlib import Path

    from logbroker_client import Client, Consumer, Message


async def take(consumer: Consumer, count: int) -> list[Message]:
    """The next messages, not acked."""
    found: list[Message] = []
    with trio.fail_after(20):
        async for message in consumer:
            found.append(message)
            if len(found) == count:
                return found
    raise AssertionError(f"{len(found)} messages")


async def produce(client: Client, queue: str, *values: bytes) -> None:
    async with client.producer(queue) as producer:
        await producer.send_many(list(values))


async def counts(client: Client, queue: str, group: str = "default") -> tuple[int, int]:
    """(available, leased) of a consumer group over all partitions."""
    found = await client.describe_queue(queue)
    rows = [row for partition in found.partitions for row in partition.groups if row.name == group]
    return sum(row.available for row in rows), sum(row.leased for row in rows)


async def test_a_message_goes_in_comes_out_is_acked_and_stays_acked_over_a_restart(tmp_path: Path) -> None:
    settings = single(tmp_path)
    async with running(settings) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders", partitions=2)
        values = [f"order {number}".encode() for number in range(200)]
        async with client.producer("orders") as producer:
            ids = await producer.send_many(values)
            last = await producer.send(b"last", key=b"k")
        assert len(set(ids)) == 200
        async with client.consumer("orders") as consumer:
            messages = await take(consumer, 201)
            assert sorted(message.value or b"" for message in messages) == sorted([*values, b"last"])
            assert last in {message.id for message in messages}
            for message in messages[:150]:
                await message.ack()
        assert await counts(client, "orders") in {(51, 0), (0, 51)}
    async with running(settings) as (_, bound), connect(bound.client_url) as client:
        available, leased = await counts(client, "orders")
        assert available + leased == 51
        await client.rewind("orders", to="earliest")
        assert await counts(client, "orders") == (201, 0)


async def test_a_receive_waits_for_a_message_and_is_woken_by_it(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders")
        async with client.consumer("orders", wait=20.0) as consumer, trio.open_nursery() as nursery:
            woken = trio.Event()

            async def wait() -> None:
                (message,) = await take(consumer, 1)
                assert message.value == b"wake up"
                woken.set()

            nursery.start_soon(wait)
            async with raw_client(port_of(bound)) as raw:
                # Its own poll is answered when its time is over, and leases nothing.
                reply = await raw.ask(_receive_one(2, "orders", hide_ms=1_000, wait_ms=100))
                assert isinstance(reply, Received)
                assert (reply.parts, reply.lease) == ([], 0)
            await produce(client, "orders", b"wake up")
            with trio.fail_after(2):
                await woken.wait()


async def test_nacked_messages_come_again_and_expired_leases_are_stale(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders", hide=1.0)
        await produce(client, "orders", b"a")
        async with client.consumer("orders", max_messages=1) as consumer:
            (first,) = await take(consumer, 1)
            assert first.deliveries == 1
            await first.nack(reason="not yet")
            (again,) = await take(consumer, 1)
            assert again.deliveries == 2
            await again.extend(2.0)
            # Nothing is acked in time, so it is delivered a third time, and the second lease is over.
            (third,) = await take(consumer, 1)
            assert third.deliveries == 3
            with pytest.raises(StaleLeaseError):
                await again.ack()
            await third.ack()
        assert await counts(client, "orders") == (0, 0)


async def test_rewind_skip_and_groups_over_partitions(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders", partitions=3)
        await produce(client, "orders", *[b"x"] * 90)
        await client.create_group("orders", "billing", start="earliest")
        with pytest.raises(AlreadyExistsError):
            await client.create_group("orders", "billing")
        total = sum(await counts(client, "orders", "billing"))
        assert total == 90
        skipped = await client.skip_to("orders", to="latest", group="billing")
        assert not skipped.pending
        assert sum(row.moved_count for row in skipped.partitions) == 90
        assert await counts(client, "orders", "billing") == (0, 0)
        back = await client.rewind("orders", to=timedelta(minutes=5), group="billing")
        assert sorted(row.partition for row in back.partitions) == [0, 1, 2]
        assert await counts(client, "orders", "billing") == (90, 0)
        with pytest.raises(OffsetOutOfRangeError, match=r"offset 1000 is not in 0\.\."):
            await client.rewind("orders", to=1000)
        clamped = await client.rewind("orders", to=1000, clamp=True)
        assert all("offset 1000 is not there" in row.clamped for row in clamped.partitions)
        with pytest.raises(NotFoundError, match="has no consumer group nobody"):
            await client.rewind("orders", to="earliest", group="nobody")
        await client.alter_queue("orders", partitions=4)
        found = await client.describe_queue("orders")
        assert [[group.name for group in partition.groups] for partition in found.partitions] == [
            ["billing", "default"]
        ] * 4
        await client.delete_group("orders", "billing")
        with pytest.raises(NotFoundError):
            await client.delete_group("orders", "billing")


async def test_a_rewind_that_is_asked_for_twice_happens_once(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders", partitions=2)
        await produce(client, "orders", *[b"x"] * 10)
        async with raw_client(port_of(bound)) as raw:
            answers = []
            for rid in (2, 3):
                asked = Rewind(rid, queue="orders", group="default", rewind_id=77, target=RelativeTarget(count=2))
                reply = await raw.ask(asked)
                assert isinstance(reply, Rewound)
                answers.append((reply.rewind_id, reply.pending, reply.partitions))
        assert answers[0] == answers[1]


async def test_what_makes_no_sense_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders")
        with pytest.raises(AlreadyExistsError, match="exists with other settings"):
            await client.create_queue("orders", partitions=2)
        with pytest.raises(InvalidArgumentError, match="queue name"):
            await client.create_queue("../etc/passwd")
        with pytest.raises(InvalidArgumentError, match="retention_ms"):
            await client.create_queue("short", retention=timedelta(seconds=1))
        with pytest.raises(LogBrokerError, match="max_partitions_per_queue"):
            await client.create_queue("wide", partitions=100_000)
        with pytest.raises(NotFoundError):
            await client.delete_queue("nothing")
        with pytest.raises(NotFoundError):
            await client.describe_queue("nothing")
        await client.delete_queue("orders")
        assert await client.list_queues() == []


async def test_what_is_no_batch_is_refused_for_good(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("orders")
        async with raw_client(port_of(bound)) as raw:
            batch = encode_values([b"good"], timestamp_ms=1)
            # The real client waits until the new partition has a leader.
            async with client.producer("orders") as producer:
                await producer.send(b"first")
            assert isinstance(await raw.ask(Produce(2, queue="orders", partition=0), batch), Produced)
            for rid, body in enumerate((b"", b"not a batch", batch[:-1], batch[:30] + b"\xff" + batch[31:]), start=3):
                reply = await raw.ask(Produce(rid, queue="orders", partition=0), body)
                assert isinstance(reply, Error)
                assert (reply.code, reply.retriable) == ("corrupt", False)


ROLES = {
    "producer": ("own-*:produce", "produce"),
    "consumer": ("own-*:consume", "consume"),
    "rewinder": ("own-*:rewind", "rewind"),
    "purger": ("own-*:purge", "purge"),
    "manager": ("own-*:admin", "admin"),
    "operator": ("*:admin", "admin"),
}


async def test_every_command_of_every_role_on_own_and_other_queues_through_the_front_door(tmp_path: Path) -> None:
    root = tmp_path / "root-token"
    root.write_text("r" * 40)
    root.chmod(0o600)
    settings = single(tmp_path, auth__tokens=True, auth__root_token_file=root)
    async with running(settings) as (_, bound):
        async with connect(bound.client_url, token="r" * 40) as client:
            for queue in ("own-orders", "other-orders"):
                await client.create_queue(queue)
            tokens = {role: await client.create_token(role, [grant]) for role, (grant, _) in ROLES.items()}
            assert {info.name: info.rights for info in await client.list_tokens()}["producer"] == ["own-*:produce"]
            with pytest.raises(InvalidArgumentError):
                await client.create_token("bad", ["orders:fly"])
        for role, (grant, right) in ROLES.items():
            async with raw_client(port_of(bound), token=tokens[role]) as raw:
                for queue in ("own-orders", "other-orders"):
                    for kind, request in about(queue, raw.rid).items():
                        wanted = WANTED[kind]
                        owns = grant.startswith("*") or queue.startswith("own-")
                        on_cluster = wanted is not None and wanted[1]
                        allowed = wanted is None or (
                            right in {str(one.name).lower() for one in wanted[0]}
                            and (grant.startswith("*") if on_cluster else owns)
                        )
                        if allowed and kind.__name__.startswith(("Delete", "Alter")):
                            # It would take the ground from under the rest; that it is let through is seen elsewhere.
                            continue
                        reply = await raw.ask(request)
                        refused = isinstance(reply, Error) and reply.code == "forbidden"
                        assert refused != allowed, (role, queue, kind.__name__, reply)
        with pytest.raises(UnauthenticatedError):
            async with connect(bound.client_url, token="x" * 40, timeout=5):
                pass
        async with connect(bound.client_url, token="r" * 40) as client:
            await client.delete_token("producer")
        with pytest.raises(UnauthenticatedError):
            async with connect(bound.client_url, token=tokens["producer"], timeout=5):
                pass
        async with connect(bound.client_url, token=tokens["consumer"]) as client:
            with pytest.raises(ForbiddenError):
                await client.status()
            assert [queue.name for queue in await client.list_queues()] == ["own-orders"]


async def test_a_reader_that_stops_is_closed_and_its_messages_come_again_uncounted(tmp_path: Path) -> None:
    settings = single(tmp_path, limits__max_reply_bytes=4 << 20, timeouts__close_ms=200)
    async with running(settings) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("big")
        async with client.producer("big", compression=False) as producer:
            for _ in range(24):
                await producer.send(bytes(900_000))
        async with raw_client(port_of(bound)) as slow:
            # All in one message, so that their replies pile up before the client can take the first.
            await slow.send(*[_receive_one(slow.rid(), "big", hide_ms=2_000) for _ in range(24)])
            with trio.fail_after(5):
                await produce(client, "big", b"quick")
            await slow.wait_closed()
        async with client.consumer("big", max_messages=1) as consumer:
            messages = await take(consumer, 25)
        assert sorted(message.offset for message in messages) == list(range(25))
        # What was in the buffers of the operating system counts, and comes when its hide time is over.
        uncounted = [message for message in messages if message.deliveries == 1]
        assert len(uncounted) >= 12


async def test_a_stream_without_credit_leases_nothing_and_what_its_lost_reader_had_comes_again(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), connect(bound.client_url) as client:
        await client.create_queue("big", hide=1.0)
        async with client.producer("big", compression=False) as producer:
            for _ in range(24):
                await producer.send(bytes(900_000))
        async with raw_client(port_of(bound)) as slow:
            request = Subscribe(
                slow.rid(),
                queue="big",
                partition=0,
                group="default",
                hide_ms=1_000,
                credit_count=3,
                credit_bytes=64 << 20,
                max_count=1,
                max_bytes=1 << 20,
            )
            await slow.send(request)
            for left in (2, 1, 0):
                reply, body = await slow.reply()
                assert isinstance(reply, Delivered)
                assert (reply.credit_count, len(body) > 900_000) == (left, True)
            with trio.fail_after(5):
                await produce(client, "big", b"quick")
            # Without credit nothing more is leased, and nothing comes.
            (row,) = (await client.describe_queue("big")).partitions[0].groups
            assert (row.leased <= 3, row.available >= 22) == (True, True)
        async with client.subscribe("big", credit=2) as consumer:
            messages = await take(consumer, 25)
        assert sorted(message.offset for message in messages) == list(range(25))


def _receive_one(rid: int, queue: str, *, hide_ms: int, wait_ms: int = 0) -> Receive:
    return Receive(
        rid,
        queue=queue,
        partition=0,
        group="default",
        max_count=1,
        max_bytes=1 << 20,
        hide_ms=hide_ms,
        wait_ms=wait_ms,
        session=9,
        request_id=rid,
    )


async def test_a_node_that_stops_answers_who_waits_and_says_where_it_goes(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (server, bound):
        async with connect(bound.client_url) as client:
            await client.create_queue("orders")
        async with raw_client(port_of(bound)) as raw:
            await raw.send(_receive_one(2, "orders", hide_ms=1_000, wait_ms=30_000))
            await raw.ask(Produce(3, queue="orders", partition=0), b"")
            server.stop()
            reply, _ = await raw.reply()
            assert isinstance(reply, Error)
            assert reply.code == ShuttingDownError.code
            assert (await raw.wait_closed())[0] == 1001


async def test_a_client_comes_in_by_tls_and_a_stranger_to_the_certificate_does_not(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    settings = single(tmp_path, listeners__client__tls_cert=cert, listeners__client__tls_key=key)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with running(settings) as (_, bound):
        assert bound.client_url.startswith("wss://127.0.0.1:")
        async with connect(bound.client_url, tls=trusting) as client:
            await client.create_queue("orders")
            await produce(client, "orders", b"x" * 500_000)
            async with client.consumer("orders") as consumer:
                (message,) = await take(consumer, 1)
                assert len(message.value or b"") == 500_000
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            async with connect(bound.client_url, timeout=2):
                pass


async def test_a_client_of_another_age_learns_which_versions_are_spoken(tmp_path: Path) -> None:
    async with running(single(tmp_path)) as (_, bound), raw_client(port_of(bound), greets=False) as raw:
        reply = await raw.ask(Hello(1, version=9, oldest_version=8))
        assert isinstance(reply, Error)
        assert "this node speaks 1 to 1" in reply.message
        assert (await raw.wait_closed())[0] == 4400
