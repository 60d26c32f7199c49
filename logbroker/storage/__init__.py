"""What must survive power loss: the write-ahead log, segments, votes, checkpoints and the index.

Blocking, without trio and without threads of its own; all file work goes through `Disk`.
"""
