"""The library between a node and the C library (`shim.c`): built here, and told what to do through a file."""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
from pathlib import Path
from typing import final

_SOURCE = Path(__file__).with_name("shim.c")
_FIELD = struct.Struct("<q")
_FIELDS = ("sync_error", "sync_delay_us", "clock_offset_ns", "failed_count", "delayed_count")


def build_shim(folder: Path) -> Path | str:
    """Compile it; gives the library, or why there is none."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler (cc)"
    library = folder / "shim.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(_SOURCE), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    return library if done.returncode == 0 else f"{compiler} fails: {done.stderr.strip()[-300:]}"


@final
class Shim:
    """Orders to one node's library; they hold for its next process too."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(_FIELD.size * len(_FIELDS)))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 0)
        self.file = file

    def environment(self, library: Path) -> dict[str, str]:
        """What a node needs in its environment."""
        return {"LD_PRELOAD": str(library), "CHAOS_SHIM": str(self.file)}

    def fail_syncs(self) -> None:
        self._set("sync_error", errno.EIO)

    def slow_syncs(self, delay_ms: float) -> None:
        self._set("sync_delay_us", int(delay_ms * 1000))

    def shift_clock(self, offset_s: float) -> None:
        self._set("clock_offset_ns", int(offset_s * 1_000_000_000))

    @property
    def failed_count(self) -> int:
        return self._get("failed_count")

    @property
    def delayed_count(self) -> int:
        return self._get("delayed_count")

    def heal(self) -> None:
        for name in _FIELDS[:3]:
            self._set(name, 0)

    def close(self) -> None:
        self._map.close()

    def _set(self, name: str, value: int) -> None:
        _FIELD.pack_into(self._map, _FIELD.size * _FIELDS.index(name), value)

    def _get(self, name: str) -> int:
        value: int = _FIELD.unpack_from(self._map, _FIELD.size * _FIELDS.index(name))[0]
        return value
