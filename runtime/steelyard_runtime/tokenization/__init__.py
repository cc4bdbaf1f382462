"""Tokenizers, chat templates and incremental detokenisation. No torch."""
