"""The HTTP process of a worker. No torch."""
