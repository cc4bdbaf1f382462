"""The Steelyard inference runtime: worker, engine, KV transfer and router."""

__version__ = "0.1.0"
