"""The engine process: step loop, model runner, KV pool."""
