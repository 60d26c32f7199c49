"""Outside protocols, one module each, turned into requests to `logbroker.server`."""
