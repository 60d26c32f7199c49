"""Writes record_batches.json with the batch builders of kafka-python and aiokafka; see README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiokafka
import kafka
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AiokafkaBuilder
from kafka.record.default_records import DefaultRecordBatchBuilder as KafkaPythonBuilder

TARGET = Path(__file__).with_name("record_batches.json")
NOW_MS = 1_700_000_000_000
Headers = list[tuple[str, bytes | None]]
Row = tuple[int, bytes | None, bytes | None, Headers]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    # Timestamp, key, value and headers of each record.
    rows: list[Row]
    codec: int = 0
    producer: tuple[int, int, int] = (-1, -1, -1)


CASES = [
    Case("one value", [(NOW_MS, None, b"hello", [])]),
    Case("empty value and empty key", [(NOW_MS, b"", b"", [])]),
    Case("null value and null key", [(NOW_MS, None, None, [])]),
    Case("tombstone", [(NOW_MS, b"order-17", None, [])]),
    Case("timestamps go back", [(NOW_MS + delta, None, b"%d" % delta, []) for delta in (0, -1, 500, -70_000, 3)]),
    Case("time 0", [(0, None, b"epoch", [])]),
    Case("headers", [(NOW_MS, b"k", b"v", [("a", b"1"), ("a", None), ("", b""), ("\N{SNOWMAN}", b"\x00\xff")])]),
    Case("lengths of one byte and two", [(NOW_MS, None, b"v" * size, []) for size in (56, 57, 58, 63, 64, 65)]),
    Case("65 values", [(NOW_MS, None, b"%d" % number, []) for number in range(65)]),
    Case("producer", [(NOW_MS, b"k", b"v", [])] * 2, producer=(4_000_000_001, 7, 2_147_483_646)),
    Case("zstd", [(NOW_MS + number, b"k%d" % number, b'{"state":"paid"}' * 4, []) for number in range(20)], codec=4),
    Case("zstd values", [(NOW_MS, None, b'{"state":"paid","n":%d}' % number, []) for number in range(30)], codec=4),
]


def build(builder_type: Any, case: Case) -> bytes:  # noqa: ANN401  # neither maker has types
    builder = builder_type(2, case.codec, False, *case.producer, 1 << 20)
    for offset, (timestamp_ms, key, value, headers) in enumerate(case.rows):
        builder.append(offset, timestamp_ms, key, value, headers)
    return bytes(builder.build())


def as_hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def vector(case: Case, maker: str, batch: bytes) -> dict[str, object]:
    timestamps = [row[0] for row in case.rows]
    producer_id, producer_epoch, base_sequence = case.producer
    return {
        "name": case.name,
        "made_with": maker,
        "codec": case.codec,
        "base_timestamp_ms": timestamps[0],
        "max_timestamp_ms": max(timestamps),
        "producer_id": producer_id,
        "producer_epoch": producer_epoch,
        "base_sequence": base_sequence,
        "records": [
            {
                "timestamp_ms": timestamp_ms,
                "key": as_hex(key),
                "value": as_hex(value),
                "headers": [[header, as_hex(content)] for header, content in headers],
            }
            for timestamp_ms, key, value, headers in case.rows
        ],
        "batch": batch.hex(),
    }


def main() -> None:
    kafka_python = f"kafka-python {kafka.__version__}"
    vectors = [vector(case, kafka_python, build(KafkaPythonBuilder, case)) for case in CASES]
    vectors += [
        vector(case, f"aiokafka {aiokafka.__version__}", build(AiokafkaBuilder, case))
        for case in CASES
        if not case.codec
    ]
    TARGET.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
