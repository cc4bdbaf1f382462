"""What tests and benchmarks share; nothing that serves imports it."""
