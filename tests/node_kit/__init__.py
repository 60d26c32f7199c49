"""Whole nodes in one process: brokers over loopback TCP, with data directories of their own."""
