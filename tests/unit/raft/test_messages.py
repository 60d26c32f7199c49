from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbroker.errors import CorruptBatchError
from logbroker.ids import ReplicaId
from logbroker.raft.messages import ConfState, Message, MessageKind, Role

ids = st.sets(st.integers(1, 2**64 - 1), max_size=5).map(lambda found: tuple(ReplicaId(one) for one in sorted(found)))


@given(st.builds(ConfState, ids, ids, ids, ids, st.booleans()))
def test_a_configuration_survives_its_byte_form(conf: ConfState) -> None:
    assert ConfState.decode(conf.encode()) == conf


def test_the_byte_form_of_a_configuration_is_fixed() -> None:
    conf = ConfState((ReplicaId(1), ReplicaId(2)), (ReplicaId(3),), auto_leave=True)
    assert conf.encode().hex() == (
        "01" + "01" + "0002" + "0001" + "0000" + "0000" + "0000000000000001" + "0000000000000002" + "0000000000000003"
    )


@given(st.binary(max_size=60))
def test_any_bytes_are_a_configuration_or_corrupt(data: bytes) -> None:
    with contextlib.suppress(CorruptBatchError):
        assert ConfState.decode(data).encode() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02\x00" + bytes(8),
        b"\x01\x02" + bytes(8),
        b"\x01\x00\x00\x01" + bytes(6),
        b"\x01\x00\x00\x01" + bytes(6) + bytes(8),
        b"\x01\x00\x00\x02" + bytes(6) + b"\x00" * 7 + b"\x02" + b"\x00" * 7 + b"\x01",
        b"\x01\x00\x00\x41" + bytes(6) + bytes(8 * 65),
    ],
)
def test_a_broken_configuration_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptBatchError):
        ConfState.decode(data)


def test_members_are_everybody_once_and_in_order() -> None:
    conf = ConfState((ReplicaId(3),), (ReplicaId(5),), (ReplicaId(3), ReplicaId(1)), (ReplicaId(1),))
    assert conf.members() == [1, 3, 5]
    assert conf.is_joint


def test_the_numbers_on_the_wire_do_not_change() -> None:
    assert [(kind.name, kind.value) for kind in MessageKind] == [
        ("APPEND", 1),
        ("APPEND_RESPONSE", 2),
        ("VOTE", 3),
        ("VOTE_RESPONSE", 4),
        ("PRE_VOTE", 5),
        ("PRE_VOTE_RESPONSE", 6),
        ("HEARTBEAT", 7),
        ("HEARTBEAT_RESPONSE", 8),
        ("SNAPSHOT", 9),
        ("TIMEOUT_NOW", 10),
    ]
    assert [role.name for role in Role] == ["FOLLOWER", "PRE_CANDIDATE", "CANDIDATE", "LEADER"]


def test_a_message_cannot_be_changed() -> None:
    message = Message(MessageKind.HEARTBEAT, ReplicaId(1), ReplicaId(2), term=Role.FOLLOWER)  # type: ignore[arg-type]  # any number will do
    with pytest.raises(AttributeError):
        message.commit = 3  # type: ignore[misc,assignment]  # what is tested
