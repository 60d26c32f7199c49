"""A whole broker in memory, for the unit tests of those who use logbroker; see README.md."""
