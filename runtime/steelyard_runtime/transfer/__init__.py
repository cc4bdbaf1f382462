"""KV hand-over from prefill to decode: protocol, leases, transports."""
