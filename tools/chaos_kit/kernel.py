"""The few calls of Linux that Python 3.11 lacks: namespaces and mounts, for the calling thread."""

from __future__ import annotations

import ctypes
import os
from functools import cache

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Leave namespaces for new ones.

    Raises:
        OSError: not allowed to, or the kernel has no such namespaces.
    """
    _check(_libc().unshare(flags), "unshare")


def enter_network(handle: int) -> None:
    """Enter the network namespace that a descriptor stands for.

    Raises:
        OSError: not allowed to.
    """
    _check(_libc().setns(handle, CLONE_NEWNET), "setns")


def mount(source: str, target: str, kind: str, *, flags: int = 0, data: str = "") -> None:
    """mount(2).

    Raises:
        OSError: it was refused.
    """
    options = data.encode() if data else None
    _check(_libc().mount(source.encode(), target.encode(), kind.encode(), flags, options), f"mount {target}")


def unmount(target: str) -> None:
    """Take a mount out of sight; what is open in it goes on.

    Raises:
        OSError: it was refused.
    """
    _check(_libc().umount2(target.encode(), MNT_DETACH), f"umount {target}")
