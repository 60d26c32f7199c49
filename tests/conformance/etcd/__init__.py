"""Replays the text scripts of etcd-io/raft, which lie beside the repository, against our core.

`python -m tests.conformance.etcd FOLDER` prints a line for each case that differs, then `N of M`.
FOLDER is one of the folders of scripts, or their parent. What is compared is said in `suites`.
"""
