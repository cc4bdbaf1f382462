"""Where containers of a pod listen."""

SERVING = 8000
ADMIN = 8001
KV = 5600
ROUTER = 8080

# UCX listens on ports of its own for transfers between pods; the NetworkPolicy admits these.
KV_DATA_FIRST, KV_DATA_LAST = 5610, 5649
KV_DATA = f"{KV_DATA_FIRST}-{KV_DATA_LAST}"
