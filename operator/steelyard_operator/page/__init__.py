"""The live page of a service: workers by role, latencies, cost, flips, and a box to ask something.

`steelyard up` serves it beside the endpoint, `steelyard dashboard` in front of a cluster. It is one
page of plain HTML without anything from elsewhere, so it works offline.
"""
