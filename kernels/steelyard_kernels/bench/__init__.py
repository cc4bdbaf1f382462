"""Kernels against the device's limits and against what torch has, in one run on one device."""
