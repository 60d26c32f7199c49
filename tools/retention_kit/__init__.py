"""What `tools/retention` consists of: facts from a cluster, a plan made of them, words for people."""
