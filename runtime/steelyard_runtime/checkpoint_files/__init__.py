"""Checkpoints as files: where they are, what their headers say, which bytes they hold. No torch.

The HTTP process, the tokenizer and the model loaders all read from here.
"""
