"""The client protocol as pure code: bytes in, events out (see README.md)."""
