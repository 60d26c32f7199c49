"""The simulation kit: clock, network, disk, cluster and checkers, from one seed. For tests and tools alone."""
