"""All I/O of the operator: the API server and the workers' admin ports."""
