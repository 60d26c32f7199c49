"""The Raft rules as plain code: values in, work to do out.

It must know nothing of records, files, sockets or clocks; payloads are bytes.
"""
