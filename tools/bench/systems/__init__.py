"""Systems under measurement: how each is found, started, told of its queues, and stopped."""
