"""`python -m tools.chaos_kit`, which is what `tools/chaos` runs."""

import sys

from tools.chaos_kit.command_line import main

if __name__ == "__main__":
    sys.exit(main())
