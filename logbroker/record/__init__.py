"""Record batches: the bytes that producers make, the log keeps and consumers read, unchanged."""
