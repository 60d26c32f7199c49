"""CRC-32C (Castagnoli), the checksum of record batches and of everything on disk."""

from __future__ import annotations

from typing import TypeAlias

# Taken over as it is: a function of our own around it would cost as much as the checksum of a small batch.
from crc32c import crc32c as crc32c

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What this package reads bytes from. A memoryview must be contiguous and of single bytes."""
