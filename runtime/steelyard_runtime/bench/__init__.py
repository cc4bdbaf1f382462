"""Benchmarks: every performance claim comes from here, as JSON with revision and machine."""
