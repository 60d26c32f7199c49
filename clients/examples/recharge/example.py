"""One run with all that it needs around it: the file of orders, the books, the connections, the screen."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from clients.examples.recharge.ledger import open_ledger
from clients.examples.recharge.orders import generate, read_orders, write_orders
from clients.examples.recharge.progress import Progress
from clients.examples.recharge.report import report, showing
from clients.examples.recharge.story import Story, StoryOptions
from logbroker_client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from rich.console import Console

    from clients.examples.recharge.nodes import NodeControl
    from clients.examples.recharge.story import Outcome
    from logbroker_client import Client

MIN_ORDER_COUNT = 100
"""With fewer, the marks on the way lie too close together to tell a story."""


class ExampleError(Exception):
    """The run cannot begin."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleOptions:
    folder: Path
    """Where the orders and the books lie."""
    order_count: int = 20_000
    seed: int = 1
    orders_file: Path | None = None
    """Take these orders; the two above mean nothing then."""
    token: str = ""
    story: StoryOptions


async def run_example(
    urls: list[str], options: ExampleOptions, console: Console, *, control: NodeControl | None
) -> Outcome:
    """Play the story on the cluster at `urls`, print what happened, and say how it ended.

    Raises:
        ExampleError: there are too few orders, or books of an earlier run.
        OrderFileError: the file of orders is broken.
        LogBrokerError: the cluster cannot be reached, or refuses something.
    """
    path = options.orders_file or _made_orders(options)
    orders = read_orders(path)
    if len(orders) < MIN_ORDER_COUNT:
        raise ExampleError(f"{path} holds {len(orders)} orders, and the story needs {MIN_ORDER_COUNT}")
    books = options.folder / f"{options.story.prefix}-books.sqlite"
    if books.exists():
        raise ExampleError(f"{books} exists: remove it, or give this run another --prefix")
    progress = Progress(len(orders))

    def connect_as(name: str) -> AbstractAsyncContextManager[Client]:
        return connect(urls, token=options.token or None, name=name)

    with _only_cause(), open_ledger(books) as ledger:
        async with showing(console, progress) as tell:
            tell(f"{len(orders):,} orders from {path}")
            story = Story(connect_as, orders, ledger, progress, options.story, control=control, tell=tell)
            outcome = await story.play()
    console.print()
    console.print(report(outcome, progress))
    return outcome


def _made_orders(options: ExampleOptions) -> Path:
    path = options.folder / f"orders-{options.seed}-{options.order_count}.ndjson"
    write_orders(path, generate(options.order_count, seed=options.seed))
    return path


@contextmanager
def _only_cause() -> Iterator[None]:
    """Take what went wrong out of the groups that nurseries wrap it in; several causes are shown by the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        cause: BaseException = group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from group
