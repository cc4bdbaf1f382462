"""The ops in CUDA C++ for Hopper and later, with what builds and launches them."""
