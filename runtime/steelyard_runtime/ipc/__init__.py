"""The frames between the HTTP process and the engine process."""
