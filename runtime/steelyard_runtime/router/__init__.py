"""The HTTP front of one service. No torch."""
