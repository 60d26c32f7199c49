"""Every command against every right, over a real connection: what the wire knows is listed by itself, so that a new
command without a rule fails here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from logbroker.node.catalogue import commands
from logbroker.node.catalogue.rights import CLUSTER, Grant, Rights
from logbroker.node.tokens import token_digest
from logbroker.server.auth import RULES
from logbroker.server.handlers import HANDLERS
from logbroker.wire.requests import REPLY_OF, AnyRequest, Error, Hello, Ping, Produce, Request
from tests.hostile.kit import connected, framed, ws
from tests.unit.server.auth_table import WANTED, about
from tests.unit.server.kit import World
from tests.unit.server.raw import serving

if TYPE_CHECKING:
    from logbroker.wire.requests import AnyReply
    from tests.hostile.kit import Stranger

KINDS: set[type[Request]] = set(get_args(AnyRequest)) - {Hello, Ping}
SINGLE = [right for right in Rights if right.bit_count() == 1]


def subclasses(kind: type[Request]) -> set[type[Request]]:
    found: set[type[Request]] = set(kind.__subclasses__())
    return found.union(*[subclasses(one) for one in found])


def test_every_kind_that_the_wire_knows_has_a_rule_a_handler_a_reply_and_a_row_in_the_table() -> None:
    assert subclasses(Request) == KINDS | {Hello, Ping}
    for table in (RULES, HANDLERS, WANTED, about("orders")):
        assert set(table) == KINDS
    assert set(REPLY_OF) == KINDS | {Hello, Ping}


def token_of(number: int) -> str:
    return f"token-{number:02}-" + "x" * 40


async def ask(stranger: Stranger, kind: type[Request], queue: str) -> AnyReply | None:
    """Send one request; gives its refusal, or None where it was let through."""
    request = about(queue)[kind]
    await stranger.send(ws(framed(request, body=b"batch" if kind is Produce else b"")) + ws(framed(Ping(2))))
    reply = await stranger.reply()
    if isinstance(reply, Error) and reply.code == "forbidden":
        await stranger.reply()
        return reply
    return None


@pytest.mark.parametrize("right", SINGLE)
@pytest.mark.parametrize("where", ["orders", "orders-*", CLUSTER])
async def test_a_token_opens_what_its_right_is_for_and_nothing_else(right: Rights, where: str) -> None:
    world = World.make(auth={"tokens": True})
    backend, service = world.backend, world.service
    service.measures.unauthenticated = 0
    token = token_of(1)
    backend.change(commands.CreateToken("mine", token_digest(token), (Grant(where, right),)))
    async with serving(service) as (_, port):
        for kind in KINDS:
            wanted = WANTED[kind]
            for queue in ("orders", "payments"):
                async with connected(port) as stranger:
                    await stranger.greet(token)
                    refusal = await ask(stranger, kind, queue)
                has_right = wanted is None or right in wanted[0]
                is_about = wanted is None or where == CLUSTER or (not wanted[1] and where == queue)
                assert (refusal is None) == (has_right and is_about), (kind.__name__, queue)


@pytest.mark.parametrize("kind", sorted(KINDS, key=str), ids=str)
async def test_without_a_token_nothing_is_opened_and_nothing_reaches_the_node(kind: type[Request]) -> None:
    world = World.make(auth={"tokens": True})
    world.service.measures.unauthenticated = 0
    async with serving(world.service) as (_, port):
        for token in ("", "wrong", token_of(1)):
            async with connected(port) as stranger:
                await stranger.upgrade()
                body = b"batch" if kind is Produce else b""
                await stranger.send(ws(framed(Hello(9, token=token))) + ws(framed(about("orders")[kind], body=body)))
                said = await stranger.end()
            assert said.close_code in (4400, 4401)
            assert said.errors
        assert world.backend.asked == []
        assert world.backend.proposed == []
