"""How many workers each role should have: demand, capacity, the cheapest split that suffices."""
