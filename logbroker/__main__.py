"""`python -m logbroker`: the same as the `logbroker` command."""

from __future__ import annotations

from logbroker.cli.main import main

main()
