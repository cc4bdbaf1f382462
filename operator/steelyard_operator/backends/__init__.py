"""Pure renderers: how an engine is started and probed."""
