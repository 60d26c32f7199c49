"""Clients of logbroker and examples of their use. The Python client is the package `logbroker_client` in `python/`."""
