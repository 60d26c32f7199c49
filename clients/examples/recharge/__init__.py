"""Telephone recharge: trade, delivery and settlement, which know each other by two queues only.

Run it with `python -m clients.examples.recharge` against any cluster, or with `tools/run` against a cluster of its own
in which the leader of the busiest partition is killed on the way. The story it plays is in `story.py`.
"""
