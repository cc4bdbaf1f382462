"""The ops in C++ for CPUs, float32; built on first use."""
