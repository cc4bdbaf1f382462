"""From logits to token ids: penalties, filters, counter-based draws."""
