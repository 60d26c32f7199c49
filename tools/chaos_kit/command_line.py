"""The face of live chaos for people: `tools/chaos`."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import trio

from tools.chaos_kit.disks import DiskKind
from tools.chaos_kit.faults import FAULTS
from tools.chaos_kit.kernel import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare
from tools.chaos_kit.network import Loopback, Namespaces, namespaces
from tools.chaos_kit.report import Report
from tools.chaos_kit.rounds import RoundOptions, run_round
from tools.chaos_kit.shim import build_shim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tools.chaos_kit.faults import Fault
    from tools.chaos_kit.network import Network

# A cluster and its clients' memories grow; what was learned from one is judged, and another begins.
_ROUND_S = 150.0
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 only if every promise was kept."""
    asked = _parser().parse_args(arguments)
    names = [name for name in asked.faults.split(",") if name] if asked.faults else []
    unknown = sorted(set(names) - {fault.name for fault in FAULTS})
    if unknown:
        print(f"tools/chaos: no fault is called {unknown[0]}; there are {', '.join(_names())}", file=sys.stderr)
        return 2
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    folder = Path(tempfile.mkdtemp(prefix="logbroker-chaos-")) if asked.folder is None else asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    is_clean = False
    # Nodes do not outlive this process if it can help it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = _run(asked, chosen, folder)
        is_clean = report.is_clean
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if asked.keep and not is_clean:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print()
    for line in report.lines():
        print(line)
    if asked.json is not None:
        asked.json.write_text(json.dumps(report.values(), indent=2) + "\n")
    return 0 if report.is_clean else 1


def _names() -> list[str]:
    return [fault.name for fault in FAULTS]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/chaos",
        description="Run real nodes with real clients through kills, stops, cuts, losses, delays, power losses, failed "
        "and slow syncs, full disks and jumping clocks, and hold all that was confirmed against what is there.",
        epilog="Exit code 0 only if nothing was lost, doubled, leased twice at once or stuck. What this machine cannot "
        "do is reported as SKIPPED.",
    )
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="of faults; starts and checks come on top (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the faults and the clients' habits; else a new one")
    parser.add_argument("--faults", default="", metavar="A,B", help=f"only these; of {', '.join(_names())}")
    parser.add_argument("--nodes", type=int, default=3, choices=(3, 5), help="(%(default)s)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write all figures here")
    parser.add_argument(
        "--folder", type=Path, default=None, help="an empty one for data and logs; else a temporary one"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that is not clean")
    parser.add_argument("--loopback", action="store_true", help="no namespaces, even where they can be had")
    return parser


def _run(asked: argparse.Namespace, chosen: Sequence[Fault], folder: Path) -> Report:
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    numbers = list(range(1, asked.nodes + 1))
    with ExitStack() as stack:
        log: IO[bytes] = stack.enter_context((folder / "helpers.log").open("ab"))
        missing: dict[str, str] = {}
        _own_mounts(missing)
        network = _network(asked, numbers, stack, log, missing)
        library = build_shim(folder)
        if isinstance(library, str):
            missing["shim"] = library
        report = Report(seed, asked.nodes, {}, _describe(network))
        usable = []
        for fault in chosen:
            if fault.needs in missing:
                report.skipped[fault.name] = missing[fault.needs]
            else:
                usable.append(fault)
        print(f"seed {seed}: {report.network}", flush=True)
        for name, why in report.skipped.items():
            print(f"SKIPPED {name}: {why}", flush=True)
        plan = plan_rounds(usable, seed=seed, seconds=60 * asked.minutes)
        for options in plan:
            place = folder / f"round{options.number}"
            place.mkdir()
            kinds = ", ".join(fault.name for fault in options.faults)
            print(
                f"round {options.number} of {len(plan)}: {options.seconds:.0f} s on {options.disk.value}: {kinds}",
                flush=True,
            )
            result = trio.run(
                partial(run_round, library=None if isinstance(library, str) else library, log=log, tell=_tell),
                options,
                place,
                network,
                numbers,
            )
            report.add(result)
            for text in result.verdict.findings[:20]:
                print(f"FOUND {text}", flush=True)
            if result.verdict.is_clean or not asked.keep:
                shutil.rmtree(place, ignore_errors=True)
        return report


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def plan_rounds(faults: Sequence[Fault], *, seed: int, seconds: float) -> list[RoundOptions]:
    """Divide the time among the disks that the faults need; every round has the faults that need none."""
    if not faults:
        return []
    kinds = list(dict.fromkeys(fault.disk or DiskKind.PLAIN for fault in faults))
    per_kind = max(1, round(seconds / _ROUND_S / len(kinds)))
    count = per_kind * len(kinds)
    chance = random.Random(seed)
    plan = []
    for number in range(count):
        disk = kinds[number % len(kinds)]
        fitting = tuple(fault for fault in faults if fault.disk in (None, disk))
        plan.append(RoundOptions(number + 1, chance.getrandbits(32), seconds / count, disk, fitting))
    return plan


def _own_mounts(missing: dict[str, str]) -> None:
    """A mount namespace of our own, so that whatever is mounted goes with us."""
    try:
        unshare(CLONE_NEWNS)
        mount("none", "/", "none", flags=MS_REC | MS_PRIVATE)
    except OSError as error:
        missing["tmpfs"] = missing["fuse"] = f"no mounts without root ({error})"
        return
    if not Path("/dev/fuse").exists():
        missing["fuse"] = "there is no /dev/fuse"


def _network(
    asked: argparse.Namespace, numbers: Sequence[int], stack: ExitStack, log: IO[bytes], missing: dict[str, str]
) -> Network:
    why = "--loopback was given" if asked.loopback else ""
    if not why and os.geteuid() != 0:
        why = "network namespaces need root"
    if not why and (shutil.which("ip") is None or shutil.which("nsenter") is None):
        why = "`ip` or `nsenter` is missing (on Debian: apt-get install iproute2 util-linux)"
    if not why:
        has_tun = Path("/dev/net/tun").exists()
        if not has_tun:
            missing["network"] = "there is no /dev/net/tun"
        try:
            return stack.enter_context(namespaces(numbers, log=log, with_shaper=has_tun))
        except (OSError, subprocess.CalledProcessError) as error:
            why = f"network namespaces cannot be made ({error})"
    missing["network"] = why
    print(f"ALL NODES ON LOOPBACK: {why}", flush=True)
    return Loopback(_free_ports(numbers))


def _describe(network: Network) -> str:
    return "each node in a network namespace" if isinstance(network, Namespaces) else "ALL NODES ON LOOPBACK"


def _free_ports(numbers: Sequence[int]) -> Mapping[int, Sequence[int]]:
    with ExitStack() as stack:
        found = {}
        for number in numbers:
            sockets = [stack.enter_context(closing(socket.socket())) for _ in range(3)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            found[number] = [one.getsockname()[1] for one in sockets]
        return found
