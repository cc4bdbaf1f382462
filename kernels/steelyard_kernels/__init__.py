"""Steelyard kernels: one op, one name, several implementations."""
