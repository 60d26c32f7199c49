"""`python -m tools.retention_kit`."""

from __future__ import annotations

from tools.retention_kit.command_line import main

if __name__ == "__main__":
    main()
