"""Pure scheduling: requests, batches, KV blocks. No torch, no I/O, no clock."""
