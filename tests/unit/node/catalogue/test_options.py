"""Options of queues: what is kept of them, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from logbroker.errors import AlreadyExistsError, CorruptBatchError, InvalidArgumentError, LogBrokerError, NotFoundError
from logbroker.ids import QueueName
from logbroker.node.catalogue import Catalogue, QueueStands, Refused
from logbroker.node.catalogue.checkpoint import decode, encode_slices
from logbroker.node.catalogue.commands import (
    AlterQueue,
    AlterQueueWith,
    Command,
    CreateQueue,
    CreateQueueWith,
    DeleteQueue,
    decode_commands,
    encode_commands,
)
from logbroker.node.catalogue.options import (
    DEFAULT_OPTIONS,
    DROP_OLDEST,
    OPTION_NAMES,
    ORDER_KEY,
    ORDER_NONE,
    QueueOptions,
    changed,
    encode_changes,
    encode_options,
    options_fault,
)
from logbroker.node.catalogue.rows import QueueSettings
from logbroker.node.placement import partition_settings
from logbroker.partition.limits import NO_LIMITS, SizeLimits
from tests.unit.node.catalogue.kit import cluster, create, expect, run

Q = QueueName("q")
PLAIN = CreateQueue(Q, QueueSettings())


def slow(backoff_ms: int = 5_000) -> CreateQueueWith:
    return CreateQueueWith(PLAIN, encode_changes({"backoff_ms": backoff_ms}))


def restored(catalogue: Catalogue) -> Catalogue:
    return decode(b"".join(encode_slices(catalogue)))[0]


def test_options_stand_beside_the_queue_and_in_its_checkpoint() -> None:
    catalogue = cluster()
    queue = expect(QueueStands, run(catalogue, slow())).queue
    for place in (catalogue, catalogue.clone(), restored(catalogue)):
        assert place.options(queue) == QueueOptions(backoff_ms=5_000)
        assert place.digest() == catalogue.digest()


def test_a_queue_without_options_has_the_bytes_that_it_had_before_there_were_any() -> None:
    plain, given = cluster(), cluster()
    run(plain, PLAIN)
    run(given, CreateQueueWith(PLAIN, encode_changes({"backoff_ms": 0, "backoff_factor": 2})))
    assert given.digest() == plain.digest()


def test_the_same_queue_once_more_is_found_only_with_the_same_options() -> None:
    catalogue = cluster()
    run(catalogue, slow())
    assert expect(QueueStands, run(catalogue, slow())).already
    for other in (slow(6_000), PLAIN):
        assert expect(Refused, run(catalogue, other)).kind is AlreadyExistsError


def test_an_alteration_leaves_the_options_that_it_does_not_name() -> None:
    catalogue = cluster()
    run(catalogue, slow())
    alter = AlterQueueWith(AlterQueue(Q, hide_ms=5_000), encode_changes({"jitter_percent": 0, "backoff_ms": None}))
    queue = expect(QueueStands, run(catalogue, alter)).queue
    assert queue.settings.hide_ms == 5_000
    assert catalogue.options(queue) == QueueOptions(backoff_ms=5_000, jitter_percent=0)
    assert expect(QueueStands, run(catalogue, alter)).already
    run(catalogue, AlterQueue(Q, hide_ms=6_000))
    assert catalogue.options(queue) == QueueOptions(backoff_ms=5_000, jitter_percent=0)


def test_options_go_with_their_queue() -> None:
    catalogue = cluster()
    run(catalogue, slow())
    run(catalogue, DeleteQueue(Q))
    assert catalogue.options(create(catalogue, "q")) == QueueOptions()
    assert restored(catalogue).digest() == catalogue.digest()


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_a_value_beyond_its_bounds_is_refused_with_them(name: str) -> None:
    options = msgspec.structs.replace(QueueOptions(), **{name: 1 << 60})
    assert f"{name} 1,152,921,504,606,846,976 is not between" in (options_fault(options) or "")
    catalogue = cluster()
    create(catalogue, "q")
    before = catalogue.options(expect(QueueStands, run(catalogue, PLAIN)).queue)
    refused = expect(Refused, run(catalogue, AlterQueueWith(AlterQueue(Q), encode_changes({name: 1 << 60}))))
    assert (refused.kind, name in refused.message) == (InvalidArgumentError, True)
    assert catalogue.options(expect(QueueStands, run(catalogue, PLAIN)).queue) == before


def test_none_is_no_value_below_the_least() -> None:
    assert options_fault(QueueOptions(max_age_ms=0)) is options_fault(QueueOptions(max_age_ms=1_000)) is None
    assert options_fault(QueueOptions(max_age_ms=999)) == (
        "max_age_ms 999 is not between 1,000 and 1,296,000,000, nor 0, which is none"
    )


def test_partitions_share_what_their_queue_may_hold() -> None:
    options = encode_options(QueueOptions(max_messages=10, max_bytes=10 << 20, full=DROP_OLDEST))
    catalogue = cluster()
    shares = []
    for count in (1, 4, 100):
        made = CreateQueueWith(CreateQueue(QueueName(f"q{count}"), QueueSettings(partitions=count)), options)
        shares.append(partition_settings(catalogue, expect(QueueStands, run(catalogue, made)).queue, 0).limits)
    assert shares == [
        SizeLimits(10, 10 << 20, drops_oldest=True),
        SizeLimits(3, (10 << 20) // 4, drops_oldest=True),
        SizeLimits(1, 1 << 20, drops_oldest=True),
    ]
    assert partition_settings(catalogue, create(catalogue, "q"), 0).limits == NO_LIMITS


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_every_option_comes_back_from_its_pairs(name: str) -> None:
    options = msgspec.structs.replace(QueueOptions(), **{name: getattr(QueueOptions(), name) + 1})
    assert changed(QueueOptions(), encode_options(options)) == options
    assert len(encode_options(options)) == 1


def test_a_queue_ordered_by_key_does_not_grow() -> None:
    catalogue = cluster()
    run(catalogue, PLAIN)
    by_key, grow = encode_changes({"order": ORDER_KEY}), AlterQueue(Q, partitions=2)
    run(catalogue, AlterQueueWith(AlterQueue(Q), by_key))
    for command in (grow, AlterQueueWith(grow, encode_changes({"window": 5}))):
        refused = expect(Refused, run(catalogue, command))
        assert "ordered by key and cannot grow from 1 to 2 partitions" in refused.message
    run(catalogue, AlterQueueWith(AlterQueue(Q, partitions=1, hide_ms=6_000), by_key))
    grown = expect(QueueStands, run(catalogue, AlterQueueWith(grow, encode_changes({"order": ORDER_NONE})))).queue
    assert len(grown.groups) == 2


@pytest.mark.parametrize("pairs", [((99_999, 1),), ((2, 1), (1, 1)), ((1, 1), (1, 2)), ((0, 0),)])
def test_pairs_that_are_unknown_or_out_of_order_are_no_options(pairs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(CorruptBatchError):
        changed(QueueOptions(), pairs)
    with pytest.raises(CorruptBatchError):
        decode_commands(encode_commands([CreateQueueWith(PLAIN, pairs)]))


def letters(queue_id: int) -> tuple[tuple[int, int], ...]:
    return encode_changes({"dead_letter_queue": queue_id})


def test_dead_messages_go_to_a_queue_that_exists_and_is_another() -> None:
    catalogue = cluster()
    dead = create(catalogue, "dead")
    queue = expect(QueueStands, run(catalogue, CreateQueueWith(PLAIN, letters(dead.queue_id)))).queue
    assert catalogue.options(queue).dead_letter_queue == dead.queue_id
    assert catalogue.queue_of_id(dead.queue_id) == dead
    refused: list[tuple[Command, type[LogBrokerError]]] = [
        (CreateQueueWith(CreateQueue(QueueName("new"), QueueSettings()), letters(99)), NotFoundError),
        (AlterQueueWith(AlterQueue(Q), letters(99)), NotFoundError),
        (AlterQueueWith(AlterQueue(Q), letters(queue.queue_id)), InvalidArgumentError),
    ]
    for command, kind in refused:
        assert expect(Refused, run(catalogue, command)).kind is kind
        assert catalogue.options(queue).dead_letter_queue == dead.queue_id


def test_dead_messages_do_not_come_back_by_way_of_other_queues() -> None:
    catalogue = cluster()
    last = create(catalogue, "last")
    middle = CreateQueueWith(CreateQueue(QueueName("middle"), QueueSettings()), letters(last.queue_id))
    middle_id = expect(QueueStands, run(catalogue, middle)).queue.queue_id
    first = expect(QueueStands, run(catalogue, CreateQueueWith(PLAIN, letters(middle_id)))).queue
    for queue_id, through in ((first.queue_id, "middle"), (middle_id, "middle")):
        refused = expect(Refused, run(catalogue, AlterQueueWith(AlterQueue(QueueName("last")), letters(queue_id))))
        assert refused.kind is InvalidArgumentError
        assert refused.message == f"queue last would get its dead messages back from queue {through}"
    assert catalogue.options(last).dead_letter_queue == 0


def test_a_queue_outlives_the_one_for_its_dead_messages() -> None:
    catalogue = cluster()
    dead = create(catalogue, "dead")
    run(catalogue, CreateQueueWith(PLAIN, letters(dead.queue_id)))
    run(catalogue, DeleteQueue(QueueName("dead")))
    assert catalogue.queue_of_id(dead.queue_id) is None
    alter = AlterQueueWith(AlterQueue(Q, hide_ms=7_000), encode_changes({"backoff_ms": 5}))
    queue = expect(QueueStands, run(catalogue, alter)).queue
    assert catalogue.options(queue) == QueueOptions(backoff_ms=5, dead_letter_queue=dead.queue_id)
    create(catalogue, "dead")
    assert catalogue.queue_of_id(dead.queue_id) is None, "another queue of the same name is another queue"
    run(catalogue, AlterQueueWith(AlterQueue(Q), letters(0)))
    assert catalogue.options(queue) == QueueOptions(backoff_ms=5)
    assert restored(catalogue).digest() == catalogue.digest()


@pytest.mark.parametrize(
    ("name", "least", "most"), [("dedup_window_ms", 0, 86_400_000), ("dedup_count", 1, 10_000_000)]
)
def test_the_window_of_ids_has_bounds(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert options_fault(changed(DEFAULT_OPTIONS, encode_changes({name: value}))) is None
    for value in (least - 1, most + 1):
        fault = options_fault(msgspec.structs.replace(DEFAULT_OPTIONS, **{name: value}))
        assert fault == f"{name} {value:,} is not between {least:,} and {most:,}"
