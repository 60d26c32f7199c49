"""`python -m clients.examples.recharge`: the example against a cluster that is running already."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click
import trio
from rich.console import Console

from clients.examples.recharge.example import MIN_ORDER_COUNT, ExampleError, ExampleOptions, run_example
from clients.examples.recharge.nodes import CommandControl, NodeControlError
from clients.examples.recharge.orders import OrderFileError
from clients.examples.recharge.story import StoryOptions
from logbroker_client import LogBrokerError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    "urls",
    multiple=True,
    envvar="LOGBROKER_URL",
    default=["ws://127.0.0.1:4100"],
    show_default=True,
    help="A node of the cluster; repeatable. LOGBROKER_URL takes several, with blanks.",
)
@click.option("--token", envvar="LOGBROKER_TOKEN", default="", help="Better in LOGBROKER_TOKEN.")
@click.option("--messages", type=click.IntRange(MIN_ORDER_COUNT), default=20_000, show_default=True, help="Orders.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="What the orders are made from.")
@click.option(
    "--orders",
    "orders_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take these orders, one JSON object a line, and make none.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    help="Orders a second; 0: all it can. Else 1,000, or more if that took longer than 20 s.",
)
@click.option("--partitions", type=click.IntRange(1), default=3, show_default=True, help="Of each of the two queues.")
@click.option("--prefix", default="recharge", show_default=True, help="Names of the queues begin with it.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("recharge"),
    show_default=True,
    help="For the orders and the books.",
)
@click.option("--kill-command", default="", help="Kills node {node} of the cluster at once; with --restart-command.")
@click.option("--restart-command", default="", help="Starts node {node} again, and returns when it is ready.")
def main(
    urls: tuple[str, ...],
    token: str,
    messages: int,
    seed: int,
    orders_file: Path | None,
    rate: float | None,
    partitions: int,
    prefix: str,
    folder: Path,
    kill_command: str,
    restart_command: str,
) -> None:
    """Trade, deliver and settle telephone recharges through two queues, break things on the way, and strike a balance.

    Exit code 0 only if every order is in the books once, to the cent.

    Examples:

    \b
      python -m clients.examples.recharge --messages 1000
      python -m clients.examples.recharge --kill-command "ssh node{node} pkill -KILL -x logbroker" \\
          --restart-command "ssh node{node} systemctl start logbroker"
    """
    if bool(kill_command) != bool(restart_command):
        raise click.UsageError("--kill-command and --restart-command go together.")
    control = CommandControl(kill_command, restart_command) if kill_command else None
    folder.mkdir(parents=True, exist_ok=True)
    options = ExampleOptions(
        folder=folder,
        order_count=messages,
        seed=seed,
        orders_file=orders_file,
        token=token,
        story=StoryOptions(prefix=prefix, partition_count=partitions, rate=rate),
    )

    async def run() -> bool:
        return (await run_example(list(urls), options, Console(), control=control)).is_good

    try:
        is_good = trio.run(run)
    except LogBrokerError as error:
        raise click.ClickException(error.message + (f" ({error.hint})" if error.hint else "")) from error
    except (ExampleError, OrderFileError, NodeControlError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
