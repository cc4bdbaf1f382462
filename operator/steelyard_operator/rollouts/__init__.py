"""`steelyard rollout`: the revisions of a service on a cluster, and the way back to one."""
