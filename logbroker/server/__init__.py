"""What clients connect to: the listener, connections, authentication and request handlers."""
