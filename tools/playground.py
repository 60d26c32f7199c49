"""What `tools/run` does once there is an environment: a cluster, the recharge example, and what to type next."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from rich.console import Console

from clients.examples.recharge.example import MIN_ORDER_COUNT, ExampleError, ExampleOptions, run_example
from clients.examples.recharge.story import StoryOptions
from logbroker.errors import LogBrokerError
from tools.local_cluster import LocalCluster, LocalClusterError, local_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> int:
    """Run it; give the exit code."""
    options = _parser().parse_args(args)
    console = Console()
    try:
        return trio.run(_run, options, console)
    except BaseExceptionGroup as group:
        causes = _leaves(group)
        known = [cause for cause in causes if isinstance(cause, LocalClusterError | ExampleError | LogBrokerError)]
        if not known or len(known) < len(causes):
            raise
        print(f"tools/run: {known[0]}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/run",
        description="Start a three-node cluster on this machine, run the recharge example on it, and keep the cluster "
        "up until Ctrl-C. Each start begins with empty nodes.",
        epilog="Exit code 0 only if the books of the example balance.",
    )
    parser.add_argument("--exit", action="store_true", dest="exits", help="end after the example")
    parser.add_argument("--messages", type=int, default=20_000, metavar="N", help="orders of the example (%(default)s)")
    parser.add_argument(
        "--rate", type=float, help="orders a second; 0: all it can (1,000, or more if that took longer than 20 s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="what the orders are made from (%(default)s)")
    parser.add_argument("--no-example", action="store_true", help="only the cluster")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".cluster", help="for data, logs, orders and books (.cluster)"
    )
    return parser


async def _run(options: argparse.Namespace, console: Console) -> int:
    if options.messages < MIN_ORDER_COUNT:
        raise ExampleError(f"--messages is {options.messages}, and the story needs {MIN_ORDER_COUNT}")
    code = INTERRUPTED
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, scope)
            folder = options.folder.resolve()
            console.print(f"starting three nodes in {folder}", soft_wrap=True)

            def tell(text: str) -> None:
                console.print(text, markup=False, highlight=False, soft_wrap=True)

            async with local_cluster(folder, tell=tell) as cluster:
                for node in cluster.nodes.values():
                    console.print(f"node {node.number}: {node.client_url}  admin {node.admin_url}  pid {node.pid}")
                console.print()
                code = 0 if options.no_example or await _play(options, cluster, console) else 1
                if not options.exits:
                    _say_next(cluster, console, has_example=not options.no_example)
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()
    return code


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()


async def _play(options: argparse.Namespace, cluster: LocalCluster, console: Console) -> bool:
    folder = cluster.folder / "recharge"
    folder.mkdir()
    example = ExampleOptions(
        folder=folder,
        order_count=options.messages,
        seed=options.seed,
        story=StoryOptions(rate=options.rate),
    )
    return (await run_example(cluster.urls, example, console, control=cluster)).is_good


def _say_next(cluster: LocalCluster, console: Console, *, has_example: bool) -> None:
    node = cluster.nodes[1]
    lines = [
        "",
        "The cluster is up until Ctrl-C. In another terminal, from the root of the repository:",
        "",
        "  . .venv/bin/activate",
        f'  export LOGBROKER_URL="{" ".join(cluster.urls)}"',
        "  logbroker status",
    ]
    if has_example:
        lines += [
            "  logbroker queue describe recharge-receipts",
            "  logbroker rewind recharge-receipts --to count:3 --yes      # the last three of each partition again",
            "  logbroker consume recharge-receipts",
        ]
    lines += [
        "  logbroker queue create greetings",
        "  logbroker produce greetings hello world",
        "  logbroker consume greetings",
        "  logbroker rewind greetings --to earliest --yes",
        "  logbroker consume greetings",
        f"  curl {node.admin_url}/metrics",
        f"  kill -KILL {node.pid}      # node 1, then look at the status again",
        "",
        f"Logs: {cluster.folder}/node*.log",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    sys.exit(main())
