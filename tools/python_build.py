"""Whether this Python was compiled with optimisations: exit code 0 if so.

Distributions and python.org compile it guided by profiles; pyenv does not unless it is told to, and what is written in
Python then takes up to twice the time. Runs before anything is installed.
"""

from __future__ import annotations

import sys
import sysconfig


def is_optimised() -> bool:
    """Debian's does not say so in its configuration: what the system itself has under /usr counts as optimised."""
    return sys.base_prefix == "/usr" or "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")


if __name__ == "__main__":
    sys.exit(not is_optimised())
