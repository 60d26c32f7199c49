"""Where outside test material lies that is not part of the repository: the folder `shared` beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_path(relative: str) -> Path:
    """Give the path of `relative` in the shared folder, or skip the calling test where it is not there."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared/{relative} is not beside the repository")
    return path
