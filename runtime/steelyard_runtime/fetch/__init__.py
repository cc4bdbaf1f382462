"""Brings a checkpoint from a hub or a bucket into a folder. No torch, no engine."""
