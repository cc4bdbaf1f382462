"""Local mode: the same service on one machine, with processes for pods."""
