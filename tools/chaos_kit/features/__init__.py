"""What a queue can do beside produce, receive and ack: clients that use it, and judges of what they were told.

Each feature has queues of its own beside those of the plain workload, whose figures it must not disturb: `queues` says
which, `told` what is noted, a module for each feature what its clients do, and `judge_*` what must hold of it.
"""
