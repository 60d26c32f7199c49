"""Client processes that load one system each; all speak the protocol of `job`."""
