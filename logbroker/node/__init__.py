"""One process of the cluster: drives the replicas, the storage threads and the peer links."""
