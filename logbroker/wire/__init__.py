"""The client protocol as plain code: bytes in, events out. It never sees a socket."""
