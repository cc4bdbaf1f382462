"""Readers of what a model writes beside plain text: tool calls and reasoning."""
