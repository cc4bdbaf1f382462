"""Hostile clients of a running service, the good ones beside them, and the verdict."""
