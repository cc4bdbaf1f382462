"""`steelyard render` and `steelyard plan`: what the operator would make and do; nothing is done."""
