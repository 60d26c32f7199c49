"""The Python client of logbroker."""
