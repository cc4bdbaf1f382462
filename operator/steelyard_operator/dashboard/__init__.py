"""`steelyard dashboard`: the live page of a service on a cluster."""
