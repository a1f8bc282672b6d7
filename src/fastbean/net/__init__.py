"""The network: listeners, connections, and the event loop that serves them."""
