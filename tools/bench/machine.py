"""What processes and the machine spend, read from /proc; and what this machine is."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from tools.python_build import is_optimised

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KERNEL_THREADS = 2


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds since boot, of all cores together."""

    busy_s: float
    io_wait_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> Spent:
        """`/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal."""
        user, nice, system, _idle, io_wait, irq, soft_irq, stolen = (
            int(field) * _TICK_S for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return cls(user + nice + system + irq + soft_irq, io_wait, stolen)


def cpu_s(pids: Iterable[int]) -> float:
    """Give user and system time of these processes, without their children; one that is gone counts nothing."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            fields = _stat_fields(pid)
            total += (int(fields[11]) + int(fields[12])) * _TICK_S
    return total


def others_cpu_s(ours: Iterable[int]) -> float:
    """Give the time of all processes but `ours`, this one and its children; those waited for count for their parent."""
    skipped = {os.getpid(), *ours}
    total = 0.0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in skipped:
            with suppress(OSError):
                fields = _stat_fields(int(name))
                if int(fields[1]) not in (os.getpid(), _KERNEL_THREADS):
                    total += sum(map(int, fields[11:15])) * _TICK_S
    return total


def _stat_fields(pid: int) -> list[str]:
    """The fields behind the name, which may hold anything: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def allocated_bytes(folder: Path) -> int:
    """Give the blocks that the files below a folder take on disk."""
    total = 0
    for parent, _folders, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def describe_machine() -> dict[str, str]:
    processor = "unknown"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "cores": str(os.cpu_count()),
        "processor": processor,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} {'optimised' if is_optimised() else 'compiled without optimisations'}",
    }
