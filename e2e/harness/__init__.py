"""What the scenarios on a real cluster share: clusters, traffic, faults, verdicts."""
