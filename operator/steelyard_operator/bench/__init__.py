"""What `make bench-operator` measures: the operator beside many services with fake pods."""
