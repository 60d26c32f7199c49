"""Live chaos: real nodes, real clients, and everything that can happen to machines; started by `tools/chaos`."""
