"""The `logbroker` command."""
