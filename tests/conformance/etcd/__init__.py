"""Replays the text scripts of etcd-io/raft, which lie beside the repository, against our core.

`python -m tests.conformance.etcd FOLDER` prints a line for each case, or script of interactions, that differs and
why, then one for each that is left out, and ends with `N of M`. FOLDER holds scripts at any depth; what a script is
about is told by its commands. What is compared is said in `suites` and `facts`, and in the README beside this package.
"""
