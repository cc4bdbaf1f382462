"""What a cluster's monitoring gets: a dashboard, recording rules, alerts, and what to read.

`make monitoring` writes `manifests/monitoring/` from it. Pure but for `__main__`.
"""
