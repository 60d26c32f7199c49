"""What only the blocking client has to be careful with: its thread, interruptions, and what it hands to the thread."""

from __future__ import annotations

import inspect
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import logbroker_client.asyncio as coroutines
from logbroker.errors import LocalProtocolError, LogBrokerError, UnavailableError
from logbroker.wire.requests import AnyRequest, Nack, Receive
from logbroker_client import blocking
from logbroker_client.blocking import connect
from tests.contract.client_kit import FakeWorld, fake_nodes
from tests.fake_broker import FakeCluster, FakeNode

if TYPE_CHECKING:
    from collections.abc import Iterator

# What asyncio's objects have for the library itself.
INTERNAL = {"core", "waits", "load_all", "load_queue", "put_back"}


@contextmanager
def world() -> Iterator[FakeWorld]:
    cluster = FakeCluster()
    cluster.add_queue("orders")
    with fake_nodes(cluster) as world:
        yield world
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("logbroker-client")] == []


@pytest.mark.parametrize("name", ["Client", "Consumer", "Message", "MessageBatch", "Producer", "Queue"])
def test_every_object_has_the_methods_and_arguments_of_its_namesake(name: str) -> None:
    theirs, ours = getattr(coroutines, name), getattr(blocking, name)
    for method in {public for public in dir(theirs) if not public.startswith("_")} - INTERNAL:
        assert hasattr(ours, method)
        if inspect.iscoroutinefunction(getattr(theirs, method)):
            wanted = inspect.signature(getattr(theirs, method)).parameters
            given = inspect.signature(getattr(ours, method)).parameters
            assert [(p.name, p.kind, p.default) for p in given.values()] == [
                (p.name, p.kind, p.default) for p in wanted.values()
            ]
            assert not inspect.iscoroutinefunction(getattr(ours, method))
    assert set(blocking.__all__) == set(coroutines.__all__)


def test_what_was_taken_and_not_shown_is_given_back_at_the_end() -> None:
    with world() as w:
        with connect(w.urls) as client, client.producer("orders") as producer:
            producer.send_many([b"a", b"b", b"c"])
            with client.consumer("orders") as consumer:
                for message in consumer:
                    message.ack_nowait()
                    break
        nacked = w.thread.call(lambda: [request.items for request in w.cluster.nodes[1].of(Nack)])
        assert [ranges for items in nacked for _, ranges in items] == [[(1, 3)]]
        assert w.thread.call(lambda: w.cluster.partition().acked) == {0}


def test_many_acks_that_nobody_waits_for_arrive_in_order_and_are_counted() -> None:
    with world() as w:
        with connect(w.urls) as client, client.producer("orders") as producer:
            producer.send_many([b"x"] * 500)
            with client.consumer("orders") as consumer:
                batch = consumer.receive()
                w.thread.call(lambda: w.cluster.partition().expire(batch.lease))
                for message in batch:
                    message.ack_nowait()
                consumer.flush()
                assert (consumer.stale_count, consumer.unknown_count) == (len(batch), 0)
                assert consumer.statistics().expired_count == 0
        assert w.thread.call(lambda: w.cluster.partition().acked) == set()


def test_a_consumer_that_is_closed_takes_no_acks() -> None:
    with world() as w, connect(w.urls) as client:
        with client.producer("orders") as producer:
            producer.send(b"a")
        with client.consumer("orders") as consumer:
            (message,) = consumer.receive()
        for settle in (message.ack, message.ack_nowait):
            with pytest.raises(LocalProtocolError):
                settle()
        with pytest.raises(LocalProtocolError):
            consumer.flush()


def test_a_client_that_is_closed_says_so_without_a_thread() -> None:
    with world() as w:
        with connect(w.urls) as client:
            producer = client.producer("orders")
        for call in (client.list_queues, producer.flush):
            with pytest.raises(LocalProtocolError, match="the client is closed"):
                call()


def test_closing_tells_those_who_wait_in_other_threads() -> None:
    with world() as w:
        told: list[Exception] = []

        def wait() -> None:
            try:
                consumer.receive()
            except LogBrokerError as error:
                told.append(error)

        came = receives_at(w)
        with connect(w.urls) as client, client.consumer("orders") as consumer:
            waiting = threading.Thread(target=wait)
            waiting.start()
            assert came.wait(10)
        waiting.join(10)
        assert not waiting.is_alive()
        assert len(told) == 1


def receives_at(w: FakeWorld) -> threading.Event:
    """Set once a receive has come to the server."""
    came = threading.Event()

    def look(node: FakeNode, request: AnyRequest, body: bytes) -> None:
        if isinstance(request, Receive):
            came.set()

    w.thread.call(lambda: setattr(w.cluster.nodes[1], "on_request", look))
    return came


def test_an_interrupt_while_connecting_leaves_no_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        main = threading.get_ident()

        def interrupt() -> None:
            server.accept()[0].close()
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt), connect(f"ws://127.0.0.1:{server.getsockname()[1]}", timeout=5.0):
            raise AssertionError("not reached")
        thread.join()
    assert [one.name for one in threading.enumerate() if one.name.startswith("logbroker-client")] == []


def test_a_node_that_is_not_there_is_told_and_leaves_no_thread() -> None:
    with pytest.raises(UnavailableError), connect("ws://127.0.0.1:1", timeout=0.2):
        raise AssertionError("not reached")
    assert [one.name for one in threading.enumerate() if one.name.startswith("logbroker-client")] == []
