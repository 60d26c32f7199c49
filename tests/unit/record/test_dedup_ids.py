import pytest

from logbroker.errors import InvalidArgumentError, RequestTooLargeError
from logbroker.record.batch import Record
from logbroker.record.dedup_ids import DEDUP_HEADER, body_hash, dedup_id_of, hash_records, id_hash


def with_id(dedup_id: bytes | None, value: bytes = b"v", *more: tuple[str, bytes | None]) -> Record:
    return Record(value, headers=((DEDUP_HEADER, dedup_id), *more))


def test_hashes_are_these_bytes() -> None:
    # They stand in logs and checkpoints: what changes them makes known ids unknown.
    assert id_hash(b"order-1").hex() == "56eea00bbcad2f0a2ca2cc13492405d7"
    record = Record(b"pay", b"k", (("a", b"1"), (DEDUP_HEADER, b"order-1"), ("b", None)), 123)
    assert body_hash(record).hex() == "9ab2c8831ceac38c"


def test_a_body_is_key_value_and_other_headers_but_no_time() -> None:
    record = Record(b"v", b"k", (("h", b"1"),), 5)
    assert body_hash(record) == body_hash(record._replace(timestamp_ms=6))
    assert body_hash(record) == body_hash(record._replace(headers=((DEDUP_HEADER, b"x"), *record.headers)))
    others = [
        record._replace(value=b"w"),
        record._replace(value=None),
        record._replace(value=b""),
        record._replace(key=None),
        record._replace(key=b"kv", value=b""),
        record._replace(headers=()),
        record._replace(headers=(("h", None),)),
        record._replace(headers=(("h", b"1"), ("h", b"1"))),
    ]
    assert len({body_hash(other) for other in [record, *others]}) == len(others) + 1


def test_a_batch_without_ids_has_no_hashes() -> None:
    assert hash_records([Record(b"v"), Record(b"v", headers=(("h", b"1"),))]) is None


def test_a_record_without_an_id_has_zeros_in_its_place() -> None:
    found = hash_records([Record(b"v"), with_id(b"x")])
    assert found == (bytes(16) + id_hash(b"x"), bytes(8) + body_hash(Record(b"v")))


def test_an_id_has_1_to_128_bytes_and_stands_once() -> None:
    assert dedup_id_of(with_id(b"x" * 128)) == b"x" * 128
    for bad in (b"", None, b"x" * 129):
        with pytest.raises(InvalidArgumentError, match="not 1 to 128"):
            dedup_id_of(with_id(bad))
    with pytest.raises(InvalidArgumentError, match="record 3 has 2 headers logbroker-dedup-id; the most is 1"):
        dedup_id_of(with_id(b"x", b"v", (DEDUP_HEADER, b"y")), 3)


def test_a_batch_with_ids_has_at_most_1000_records() -> None:
    records = [with_id(b"x")] * 1_000
    assert hash_records(records) is not None
    with pytest.raises(RequestTooLargeError, match="has 1001 records, above 1000"):
        hash_records([*records, with_id(b"x")])
