"""A service in simulated time: the planner's own code against other policies, on traces."""
