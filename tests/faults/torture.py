"""Every crash point and every byte: the store on a simulated disk, hurt in each way that the failure model names.

    python -m tests.faults.torture                      all of it, on two processes
    python -m tests.faults.torture --kinds crash,first  some kinds alone
    python -m tests.faults.torture --only "flip wal/1.wal 4100 3"

The last line has the figures; the exit code is 1 where anything was wrong. Kinds:

    flip     each byte of the reference directory: one bit of it, or with --bits 8 each, flipped under a stopped node
    page     each 4 KiB page: zeros, ones, and every other page of the directory in its place
    cut      each file cut short at many lengths, and gone
    first    a loss of power at each change of the first start
    cluster  a loss of power at each change of the cluster's file; each byte of it flipped
    crash    a loss of power at each change of a load (appends, conflicts, votes, flushes, checkpoints, recoveries)

For flip, page and cut the directory is then opened and all of it read in every way there is. Nothing wrong may come
out; what is damaged must be noticed, by the start and by the inspection of the stopped node; what is known loss must be
mended by the copies of the other replicas and stay mended (of the flips, one in eight is).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, final

from logbroker.errors import LogBrokerError
from logbroker.ids import GroupId, NodeId, ReplicaId
from logbroker.node.cluster_file import ClusterFile, ClusterState
from logbroker.node.cluster_messages import Phase
from logbroker.storage.commit import Birth, ReplicaWrite
from logbroker.storage.flush_record import read_record
from logbroker.storage.inspection import Finding, Inspection, Remedy
from logbroker.storage.simulated_disk import SimulatedDisk
from logbroker.storage.simulated_faults import SimulatedCrash
from logbroker.storage.wal_format import WalPosition
from logbroker.storage.wal_scan import WalScanner
from tests.faults.power_loss import WHOLE_SECTORS, power_losses, settled
from tests.faults.reference import (
    FLUSHED,
    Judgement,
    Reference,
    judge,
    judge_store,
    make_reference,
    open_reference,
)
from tests.faults.store_model import StoreLoad, differs, open_model_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Case = tuple[str | int, ...]
"""The kind, then what names it within the kind."""

KINDS: Final = ("flip", "page", "cut", "first", "cluster", "crash")
OF_FILES: Final = ("flip", "page", "cut")
PAGE_BYTES: Final = 4096
CRASH_STEPS: Final = 60
MAX_ROUNDS: Final = 80
MEND_STRIDE: Final = 8
PROGRESS_S: Final = 10.0
INCARNATION: Final = bytes(16)


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """How much: `limit` and `torn` bound the states tried at each crash point, `stride` leaves out cases between."""

    seed: int = 1
    bits: int = 1
    limit: int = 24
    torn: int = 2
    stride: int = 1
    crash_seeds: int = 2


@final
@dataclass
class Tally:
    """What came of many cases."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.faults += other.faults


@cache
def reference() -> Reference:
    return make_reference()


@cache
def meaningful() -> dict[str, tuple[range, ...]]:
    """The bytes that say something: the rest is room, padding, files of the dead, uses of the ring that are over."""
    made = reference()
    disk = made.disk.copy()
    clean = Inspection(disk)
    clean.run()
    if clean.identity is None:
        raise AssertionError("the reference has no identity")
    found: dict[str, tuple[range, ...]] = {}
    record = read_record(disk, clean.identity.salt_crc)
    if record is None:
        raise AssertionError("the reference has no flush record")
    scanner = WalScanner(disk, clean.identity.salt_crc, WalPosition(record.wal_use, 0))
    scanner.scan()
    for use, headers in sorted(scanner._headers.items()):
        path = f"wal/{scanner._file_of_use[use]}.wal"
        found[path] = tuple(range(h.position.offset, h.end.offset) for h in headers)
    store = open_reference(disk)
    for stored in store.replicas.values():
        state = stored.log.state
        for row in state.segments:
            found[f"{state.directory}/{row.base_index:020d}.segment"] = (range(row.length_bytes),)
    store.close()
    for path in made.disk.paths():
        if path.startswith(("node.", "flushed.", "vote.")) or path.endswith(".checkpoint"):
            found[path] = (range(made.disk.size(path)),)
    return found


def is_meaningful(path: str, start: int, end: int) -> bool:
    if path.startswith("node.") and start == reference().disk.size(path) - 1:
        # The line's end, which a reader can do without.
        return False
    return any(part.start < end and start < part.stop for part in meaningful().get(path, ()))


@cache
def usual_findings() -> frozenset[Finding]:
    inspection = Inspection(reference().disk.copy())
    return frozenset(inspection.run())


@cache
def newest_ring_file() -> str:
    """The one that the log ends in."""
    return [path for path in meaningful() if path.startswith("wal/")][-1]


@cache
def contents() -> dict[str, bytes]:
    disk = reference().disk.copy()
    found = {}
    for path in disk.paths():
        with disk.open(path) as file:
            found[path] = file.pread(file.size(), 0)
    return found


# The cases of each kind.


def flips(plan: Plan) -> Iterator[Case]:
    chance = random.Random(plan.seed)
    for path, content in contents().items():
        for offset in range(len(content)):
            first = chance.randrange(8)
            for place in range(plan.bits):
                yield "flip", path, offset, (first + place) % 8


def pages(plan: Plan) -> Iterator[Case]:
    every = [(path, start) for path, content in contents().items() for start in range(0, len(content), PAGE_BYTES)]
    for path, start in every:
        yield "page", path, start, "zeros", 0
        yield "page", path, start, "ones", 0
        for other, place in every:
            if (other, place) != (path, start):
                yield "page", path, start, other, place


def cuts(plan: Plan) -> Iterator[Case]:
    for path, content in contents().items():
        size = len(content)
        yield "cut", path, -1
        for length in sorted({0, 1, size - 1, size // 2, *range(0, size, 512), *range(0, min(size, 300), 7)}):
            if 0 <= length < size:
                yield "cut", path, length


def firsts(plan: Plan) -> Iterator[Case]:
    disk = SimulatedDisk()
    open_reference(disk).close()
    yield from (("first", change) for change in range(1, disk.change_count + 2))


def clusters(plan: Plan) -> Iterator[Case]:
    yield from (("cluster", "crash", change) for change in range(1, 20))
    disk = _cluster_disk()
    for path in disk.paths():
        yield from (("cluster", path, offset) for offset in range(disk.size(path)))


def crashes(plan: Plan) -> Iterator[Case]:
    for seed in range(plan.seed, plan.seed + plan.crash_seeds):
        disk, load = SimulatedDisk(), None
        load = StoreLoad(disk, seed)
        before = disk.change_count
        _run_load(load)
        for change in range(1, disk.change_count - before + 1):
            yield "crash", seed, change


CASES: Final[dict[str, Callable[[Plan], Iterator[Case]]]] = {
    "flip": flips,
    "page": pages,
    "cut": cuts,
    "first": firsts,
    "cluster": clusters,
    "crash": crashes,
}


# One case.


def run_case(case: Case, plan: Plan) -> Tally:
    tally = Tally()
    try:
        match case[0]:
            case "flip" | "page" | "cut":
                _hurt(case, plan, tally)
            case "first":
                _first_start(int(case[1]), plan, tally)
            case "cluster":
                _cluster(case, tally)
            case "crash":
                _crash(int(case[1]), int(case[2]), plan, tally)
            case _:
                raise ValueError(f"no kind {case[0]}")
    except Exception as error:  # an error is what is looked for; the case that made it is named
        where = traceback.extract_tb(error.__traceback__)[-1]
        tally.faults.append(f"{type(error).__name__}: {error} ({where.name} line {where.lineno})")
    tally.counts["cases"] += 1
    tally.counts[f"of {case[0]}"] += 1
    tally.faults = [f"{name_of(case)}: {fault}" for fault in tally.faults]
    return tally


def name_of(case: Case) -> str:
    return " ".join(map(str, case))


def _hurt(case: Case, plan: Plan, tally: Tally) -> None:
    disk = settled(reference().disk)
    place = _apply_damage(disk, case)
    if place is None:
        tally.counts["without effect"] += 1
        return
    path, start, end = place
    # Nothing says that a checkpoint was there; where none is left the replica is lost, and that is seen.
    is_gone = case[0] == "cut" and int(case[2]) < 0 and path.endswith(".checkpoint")
    is_needed = is_meaningful(path, start, end) and not is_gone
    seen = frozenset(Inspection(disk).run()) - usual_findings()
    found = judge(disk, reference(), touched=path)
    if found.wrong and case[0] == "cut" and path == newest_ring_file():
        # Not promised: see the page of this folder. It is at least told of.
        tally.counts["loss of the newest ring file"] += 1
        if not seen or not found.has_noticed:
            tally.faults.append("the newest ring file is not whole, and nobody says so")
        return
    if found.wrong:
        tally.faults.append(found.wrong)
    if is_needed and not seen:
        tally.faults.append("the inspection finds nothing")
    if not is_needed and not found.has_noticed and not seen:
        tally.counts["of needless bytes"] += 1
        return
    tally.counts["noticed"] += 1
    worst = max((finding.remedy for finding in seen), default=Remedy.NONE)
    _compare(found, worst, tally)
    if found.is_new_life:
        tally.counts["new life"] += 1
    elif found.lost:
        tally.counts["unknown loss"] += 1
    elif any(found.damaged.values()):
        tally.counts["known loss"] += 1
        if case[0] != "flip" or start * 7 // 5 % MEND_STRIDE == plan.seed % MEND_STRIDE:
            tally.counts["mended from peers"] += 1
            again = settled(reference().disk)
            _apply_damage(again, case)
            tally.faults += filter(None, [_mend(again)])
    else:
        tally.counts["mended from another copy, or of no consequence"] += 1


def _compare(found: Judgement, worst: Remedy, tally: Tally) -> None:
    """The inspection of the stopped node foresees what its start will find."""
    if (found.lost or any(found.damaged.values())) and worst < Remedy.PEERS:
        tally.faults.append(f"the inspection says {worst.name} of what is lost: {found.lost} {found.damaged}")
    if worst >= Remedy.PEERS and not (found.lost or any(found.damaged.values()) or found.is_new_life):
        tally.faults.append(f"the inspection says {worst.name} and nothing is lost")


def _apply_damage(disk: SimulatedDisk, case: Case) -> tuple[str, int, int] | None:
    """Do it, and say which bytes are others now; None if none is."""
    kind, path, *rest = case
    path = str(path)
    content = contents()[path]
    if kind == "flip":
        offset = int(rest[0])
        disk.flip_bit(path, offset, int(rest[1]))
        return path, offset, offset + 1
    if kind == "cut":
        length = int(rest[0])
        if length < 0:
            disk.vanish(path)
        else:
            disk.cut_short(path, length)
        return path, max(length, 0), len(content)
    start, source, place = int(rest[0]), str(rest[1]), int(rest[2])
    size = min(PAGE_BYTES, len(content) - start)
    new = {"zeros": bytes(size), "ones": b"\xff" * size}.get(source) or contents()[source][place : place + size]
    changed = [at for at, byte in enumerate(new) if content[start + at] != byte]
    if not changed:
        return None
    disk.scribble(path, start, new)
    return path, start + changed[0], start + changed[-1] + 1


def _mend(disk: SimulatedDisk) -> str:
    """Fetch what is damaged as the other replicas have it, until nothing is; a later start must find all of it."""
    made = reference()
    store = open_reference(disk)
    found = judge_store(store, made)
    for _ in range(MAX_ROUNDS):
        if found.wrong:
            return f"while it is mended: {found.wrong}"
        if not any(found.damaged.values()):
            break
        for replica, damaged in found.damaged.items():
            log = store.replicas[replica].log
            for index in sorted(damaged):
                job = log.repair(made.replicas[replica].at(index))
                if job is not None:
                    job.run()
                    log.on_repaired(job)
            while log.mended:
                write = ReplicaWrite(replica, entries=log.mends(4096))
                commit = store.plan_commit(mends=[write])
                if commit is None:
                    return "the ring is stalled while it is mended"
                commit.run()
                store.finish_commit(commit)
        found = judge_store(store, made)
    else:
        return f"not mended after {MAX_ROUNDS} rounds: {found.damaged}"
    store.close()
    after = disk.kill()
    worst = Inspection(after)
    worst.run()
    if worst.worst >= Remedy.PEERS:
        return f"the inspection after the mending: {[one for one in worst.findings if one.remedy >= Remedy.PEERS]}"
    again = judge(after, made)
    if again.wrong or any(again.damaged.values()) or again.lost:
        return f"what was mended is not durable: {again}"
    return ""


def _first_start(change: int, plan: Plan, tally: Tally) -> None:
    disk = SimulatedDisk()
    disk.crash_before(change)
    begun = ""
    try:
        store = open_reference(disk)
        begun = store.identity.incarnation.hex()
        store.close()
    except SimulatedCrash:
        pass
    chance = random.Random(change)
    for name, left in power_losses(disk, chance, limit=plan.limit * 8, torn=plan.torn * 4):
        tally.counts["states"] += 1
        again = open_reference(left, seed=9)
        if begun and again.identity.incarnation.hex() != begun:
            tally.faults.append(f"{name}: a node that had started is another one")
        if again.replicas:
            tally.faults.append(f"{name}: a new node has replicas")
        job = again.plan_commit(births=[Birth(GroupId(FLUSHED), FLUSHED, b"")])
        if job is None:
            raise AssertionError("a new ring is stalled")
        job.run()
        again.finish_commit(job)
        incarnation = again.identity.incarnation
        third = open_reference(left.crash(keep=_Nothing()), seed=10)
        if third.identity.incarnation != incarnation or FLUSHED not in third.replicas:
            tally.faults.append(f"{name}: what the second start promised is gone")


class _Nothing:
    def randrange(self, stop: int, /) -> int:
        return 0


OLD_STATE: Final = ClusterState(phase=Phase.ALONE, name="old")
NEW_STATE: Final = ClusterState(
    phase=Phase.ALONE, name="new", cluster_id=bytes(range(16)), without=(NodeId(3),), meta_replica=ReplicaId(7)
)


def _cluster_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    ClusterFile(disk, INCARNATION).write(OLD_STATE)
    return disk


def _cluster(case: Case, tally: Tally) -> None:
    disk = _cluster_disk()
    if case[1] != "crash":
        for bit in range(8):
            attempt = disk.copy()
            attempt.flip_bit(str(case[1]), int(case[2]), bit)
            if ClusterFile(attempt, INCARNATION).read() != OLD_STATE:
                tally.faults.append(f"bit {bit}: another state")
        return
    file = ClusterFile(disk, INCARNATION)
    file.read()
    disk.crash_before(disk.change_count + int(case[2]))
    allowed = [NEW_STATE]
    try:
        file.write(NEW_STATE)
    except SimulatedCrash:
        allowed = [OLD_STATE, NEW_STATE]
    for name, left in power_losses(disk, random.Random(int(case[2])), limit=500, torn=20):
        tally.counts["states"] += 1
        if ClusterFile(left, INCARNATION).read() not in allowed:
            tally.faults.append(f"{name}: another state")


def _run_load(load: StoreLoad) -> None:
    load.create()
    for _ in range(CRASH_STEPS):
        load.step()


def _crash(seed: int, change: int, plan: Plan, tally: Tally) -> None:
    disk = SimulatedDisk()
    load = StoreLoad(disk, seed)
    disk.crash_before(disk.change_count + change)
    with contextlib.suppress(SimulatedCrash):
        _run_load(load)
    chance = random.Random(f"{seed} {change}")
    for name, left in power_losses(disk, chance, limit=plan.limit, torn=plan.torn, tears=WHOLE_SECTORS):
        tally.counts["states"] += 1
        tally.faults += [f"{name}: {fault}" for fault in _faults_after(left, load, chance)]
    killed = disk.kill()
    tally.counts["states"] += 1
    tally.faults += [f"killed: {fault}" for fault in _faults_after(killed, load, chance)]


def _faults_after(disk: SimulatedDisk, load: StoreLoad, chance: random.Random) -> Iterator[str]:
    """What a start shows is what was promised, or was being; the next start shows it too, whatever the power does."""
    interrupted = disk.copy() if chance.randrange(4) == 0 else None
    store = open_model_store(disk)
    told = load.promised
    if differs(store, told):
        told = load.promising
        if wrong := differs(store, told):
            yield wrong
            return
    again = open_model_store(disk.crash(keep=_Nothing()))
    if wrong := differs(again, told):
        yield f"after a second loss: {wrong}"
    if interrupted is not None:
        yield from _interrupted_recovery(interrupted, load, chance)


def _interrupted_recovery(disk: SimulatedDisk, load: StoreLoad, chance: random.Random) -> Iterator[str]:
    step = 1 + chance.randrange(14)
    disk.crash_before(disk.change_count + step)
    try:
        open_model_store(disk)
    except SimulatedCrash:
        disk = disk.crash(keep=chance)
    else:
        return
    store = open_model_store(disk)
    if differs(store, load.promised) and (wrong := differs(store, load.promising)):
        yield f"after a loss at change {step} of the recovery: {wrong}"


# All of them.


def run(cases: Iterable[Case], plan: Plan) -> Tally:
    """One after the other, in this process."""
    total = Tally()
    for case in cases:
        total.add(run_case(case, plan))
    return total


def all_cases(kinds: Iterable[str], plan: Plan) -> Iterator[Case]:
    for kind in kinds:
        for number, case in enumerate(CASES[kind](plan)):
            if number % plan.stride == plan.seed % plan.stride:
                yield case


def _run_chunk(work: tuple[list[Case], Plan]) -> Tally:
    return run(*work)


def _chunks(cases: Iterable[Case], size: int) -> Iterator[list[Case]]:
    chunk: list[Case] = []
    for case in cases:
        chunk.append(case)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.torture", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--only", help="one case, as a failure names it")
    parser.add_argument("--files", default="", metavar="PREFIX", help="of flips, pages and cuts only these files")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bits", type=int, default=1, choices=range(1, 9), help="bits flipped of each byte, in turn")
    parser.add_argument("--limit", type=int, default=24, help="states of whole pages tried at each crash point")
    parser.add_argument("--torn", type=int, default=2, help="states of each kind of torn page")
    parser.add_argument("--stride", type=int, default=1, help="run every n-th case alone")
    parser.add_argument("--crash-seeds", type=int, default=2, help="loads that are crashed at each change")
    options = parser.parse_args(arguments)
    plan = Plan(options.seed, options.bits, options.limit, options.torn, options.stride, options.crash_seeds)
    if options.only:
        parts = options.only.split(" ")
        cases: Iterable[Case] = [tuple(int(part) if part.lstrip("-").isdecimal() else part for part in parts)]
    else:
        every = all_cases(options.kinds.split(","), plan)
        cases = (case for case in every if str(case[1]).startswith(options.files) or case[0] not in OF_FILES)
    began = shown = time.monotonic()
    total = Tally()
    work = ((chunk, plan) for chunk in _chunks(cases, 40))
    with multiprocessing.Pool(options.jobs) as pool:
        for tally in pool.imap_unordered(_run_chunk, work):
            for fault in tally.faults:
                print(f"FAULT {fault}", flush=True)
            total.add(tally)
            if time.monotonic() - shown >= PROGRESS_S:
                shown = time.monotonic()
                print(f"{shown - began:6.0f} s  {_figures(total)}", file=sys.stderr, flush=True)
    print(
        f"torture: {_figures(total)} in {time.monotonic() - began:.0f} s, seed {plan.seed}: {len(total.faults)} faults"
    )
    return 1 if total.faults else 0


def _figures(total: Tally) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(total.counts.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LogBrokerError as error:
        sys.exit(f"torture cannot run: {error}")
