"""Pure decisions: what is desired, what was observed, what to do about it."""
