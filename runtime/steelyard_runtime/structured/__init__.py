"""Structured output: grammars that mask the next token."""
