"""The Steelyard operator, its API models and local mode."""

__version__ = "0.1.0"
