"""The replicated state of one partition: who leased, acked and rewound what.

State changes only in `apply`, identically on every replica; no clock, no randomness.
"""
