"""Measures logbroker, and compares it with every peer that is installed: `python -m tools.bench --help`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from tools.bench.compare import Plan, Turn, compare, running
from tools.bench.machine import describe_machine
from tools.bench.own import OWN_WORKS, OwnWork, Setting
from tools.bench.plot import draw
from tools.bench.report import render_own, render_work
from tools.bench.systems.logbroker import Logbroker
from tools.bench.systems.nats import Nats, NatsAlways
from tools.bench.systems.rabbitmq import RabbitMq
from tools.bench.systems.system import BenchError
from tools.bench.works import WORKS, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.bench.measure import Row
    from tools.bench.systems.system import System

_W = TypeVar("_W", Work, OwnWork)

PEERS: dict[str, type[RabbitMq | Nats]] = {peer.name: peer for peer in (RabbitMq, NatsAlways, Nats)}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Whatever ends this, the servers end with it.
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda _number, _frame: sys.exit(1)) for number in signals]
    try:
        return _run(options)
    except BenchError as error:
        print(f"tools.bench: {error}", file=sys.stderr)
        return 1
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {work.name:<18} {work.title}" for work in (*WORKS, *OWN_WORKS))
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Three nodes, their clients and everything else on this machine; real processes, real syncs.",
        epilog=f"works:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--compare", action="store_true", help="the same for every peer that is installed, in turns")
    parser.add_argument("--peers", metavar="NAME,...", help=f"compare with these only: {', '.join(PEERS)}")
    parser.add_argument("--work", metavar="NAME,...", help="only these works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append every run as a line of JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the works that systems are compared by, as SVG")
    parser.add_argument("--quick", action="store_true", help="two short rounds: to see that it works, not to quote")
    parser.add_argument(
        "--large",
        action="store_true",
        help="the backlog of 10,000,000 as well, and 1,000,000 in flight: half an hour, gigabytes",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each work and system (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of one run, about (%(default)s)")
    parser.add_argument(
        "--max-other",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="repeat runs in which others took more (%(default)s)",
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the nodes' data (a temporary one)")
    parser.add_argument(
        "--lock", type=Path, metavar="FILE", help="hold this file's lock while measuring, about two minutes at a time"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    works = _chosen(options, WORKS)
    own_works = _chosen(options, OWN_WORKS)
    plan = Plan(rounds=options.rounds, seconds=options.seconds, max_other_share=options.max_other)
    if options.quick:
        plan = replace(plan, rounds=2, seconds=1.0)
        works = [work.quick() for work in works]
    with ExitStack() as stack:
        turn = stack.enter_context(closing(Turn(options.lock)))
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logbroker-bench-")))
        systems = _chosen_systems(options, folder)
        output = stack.enter_context(options.json.open("a")) if options.json else None

        def write(line: object) -> None:
            if output is not None:
                output.write(msgspec.json.encode(line).decode() + "\n")
                output.flush()

        described = _describe(systems, plan)
        write(described)
        print(_render_description(systems, plan, described))
        if works:
            done: list[tuple[Work, Sequence[Row]]] = []
            with running(systems, tell=_tell, turn=turn):
                for work in works:
                    rows = compare(systems, [work], plan, turn=turn, tell=_tell, note=write)
                    done.append((work, rows))
                    print(f"\n{render_work(work, rows)}", flush=True)
                    if options.plot:
                        options.plot.write_text(draw(done))
        setting = Setting(
            folder=folder, plan=plan, turn=turn, tell=_tell, is_quick=options.quick, is_large=options.large
        )
        for own_work in own_works:
            _tell(own_work.name)
            rows = []
            for row in own_work.run(setting):
                rows.append(row)
                write(row)
            print(f"\n{render_own(own_work, rows)}", flush=True)
        if options.quick:
            print("\nquick: two short rounds each; not figures to quote")
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _chosen(options: argparse.Namespace, works: Sequence[_W]) -> list[_W]:
    if options.work is None:
        return list(works)
    known = [work.name for work in (*WORKS, *OWN_WORKS)]
    names = options.work.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BenchError(f"there is no work {unknown[0]!r}; there are {', '.join(known)}")
    return [work for work in works if work.name in names]


def _chosen_systems(options: argparse.Namespace, folder: Path) -> list[System]:
    systems: list[System] = [Logbroker(folder / "logbroker")]
    wanted = list(PEERS) if options.peers is None else options.peers.split(",")
    if options.peers is None and not options.compare:
        return systems
    for name in wanted:
        if name not in PEERS:
            raise BenchError(f"there is no peer {name!r}; there are {', '.join(PEERS)}")
        absent = PEERS[name].why_absent()
        if absent and options.peers is not None:
            raise BenchError(f"{name} cannot be compared with: {absent}")
        if absent:
            _tell(f"without {name}: {absent}")
        else:
            systems.append(PEERS[name](folder / name))
    return systems


def _describe(systems: Sequence[System], plan: Plan) -> dict[str, object]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "systems": {
            system.name: {"version": system.version(), "sync": system.sync, "settings": dict(system.settings())}
            for system in systems
        },
    }


def _render_description(systems: Sequence[System], plan: Plan, described: dict[str, object]) -> str:
    machine = describe_machine()
    lines = [
        f"{described['started']}; {machine['cores']} cores, {machine['processor']}, {machine['system']}, "
        f"Python {machine['python']}; {plan.rounds} rounds of about {plan.seconds:g} s, in turns; "
        f"repeated where others took more than {plan.max_other_share:.0%} of the machine",
        "median (min-max); CPU microseconds a message of all three nodes and of all clients together",
    ]
    for system in systems:
        settings = ", ".join(f"{key} = {value}" for key, value in system.settings().items())
        lines.append(f"- {system.name} {system.version()}: sync: {system.sync}; not default: {settings or 'nothing'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
