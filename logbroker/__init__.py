"""A Raft-replicated message queue."""
