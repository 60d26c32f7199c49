"""Whatever clients grant, partitions answer and readers read, a stream stays within its credit and loses no lease."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logbroker.ids import LeaseId, Offset
from logbroker.node.requests import Part, ReceiveReply, ReceiveRequest, ReleaseRequest
from logbroker.wire.requests import Credit, Delivered, Subscribe, Unsubscribe
from tests.unit.server.kit import World

MIB = 1 << 20
RID = 2

STEPS = st.one_of(
    st.tuples(st.just("credit"), st.integers(0, 9), st.integers(0, 2 * MIB)),
    # What the partition has: so many messages in so many bytes; none: the wait was in vain.
    st.tuples(st.just("answer"), st.integers(0, 9), st.sampled_from([1, 1000, MIB // 2, MIB])),
    st.tuples(st.just("read"), st.just(0), st.just(0)),
    # As they come one after another most of the time.
    st.tuples(st.just("answer and read"), st.integers(1, 9), st.sampled_from([1, MIB // 2, MIB])),
    st.tuples(st.sampled_from(["crowd", "sweep"]), st.integers(0, 1), st.just(0)),
)


@given(st.integers(0, 20), st.integers(MIB, 4 * MIB), st.lists(STEPS, min_size=10, max_size=40), st.booleans())
def test_nothing_is_pushed_beyond_the_credit_and_every_lease_is_pushed_or_goes_back(
    count: int, size_bytes: int, steps: list[tuple[str, int, int]], unsubscribes: bool
) -> None:
    world = World.make()
    world.greet()
    granted_count, granted_bytes, pushed_count, pushed_bytes, rid, crowd_bytes = count, size_bytes, 0, 0, RID, 0
    made: list[int] = []
    seen: list[int] = []
    released: list[int] = []

    def read() -> None:
        for reply, body in world.replies():
            if isinstance(reply, Delivered):
                nonlocal pushed_count, pushed_bytes
                pushed_count += sum(end - start for part in reply.parts for start, end, _ in part.ranges)
                pushed_bytes += len(body)
                seen.append(reply.lease)
                assert pushed_count <= granted_count
                assert pushed_bytes <= granted_bytes

    def take_releases() -> None:
        for asked in list(world.backend.asked):
            if isinstance(asked[1], ReleaseRequest):
                released.append(asked[1].lease)
                world.backend.asked.remove(asked)

    world.send(
        Subscribe(
            RID,
            queue="orders",
            partition=0,
            group="default",
            hide_ms=30_000,
            credit_count=count,
            credit_bytes=size_bytes,
            max_count=100,
            max_bytes=MIB,
        )
    )
    for step, number, amount in steps:
        match step:
            case "credit":
                rid += 1
                granted_count += number
                granted_bytes += amount
                world.send(Credit(rid, queue="orders", subscription=RID, credit_count=number, credit_bytes=amount))
            case "answer" | "answer and read" if world.backend.asked:
                _, request, answer = world.backend.take(ReceiveRequest)
                number = min(number, request.max_count)
                made += [len(made) + 1] * bool(number)
                # One batch goes, even if it is larger than what was asked for.
                part = Part(bytes(amount), Offset(0), 1, ((0, number, 1),))
                answer(
                    ReceiveReply(LeaseId(made[-1]), 1, 1000, (part,)) if number else ReceiveReply(LeaseId(0), 0, 0, ())
                )
                if step == "answer and read":
                    read()
            case "read":
                read()
            case "crowd":
                # Others take all the room of the node, or give it back.
                wanted_bytes = 3 * world.service.limits.max_held_bytes * number
                world.service.measures.held_bytes += wanted_bytes - crowd_bytes
                crowd_bytes = wanted_bytes
            case _:
                world.session.check()
        take_releases()
        assert len(world.backend.asked) <= 1
        for _, waiting, _ in world.backend.asked:
            assert isinstance(waiting, ReceiveRequest)
            # Nothing is asked for while a delivery waits to be read, so all that was pushed is known here.
            assert world.service.measures.pushed_deliveries == len(seen)
            assert waiting.max_count <= granted_count - pushed_count
            assert waiting.max_bytes <= granted_bytes - pushed_bytes
    if unsubscribes:
        world.send(Unsubscribe(rid + 1, queue="orders", subscription=RID))
        read()
    world.session.end()
    for _ in range(2):
        world.service.handover.sweep()
        take_releases()
    assert sorted(seen + released) == made
    measures = world.service.measures
    assert (measures.streams, measures.starved_streams, measures.waiting_receives) == (0, 0, 0)
    assert measures.held_bytes == crowd_bytes
