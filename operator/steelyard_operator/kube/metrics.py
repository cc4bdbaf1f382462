"""What the operator says about itself in Prometheus' form: names, kinds and help. Data only.

Every name begins with `steelyard_operator_`; units are in the names.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

API_REQUESTS = Counter(
    "steelyard_operator_api_requests",
    "Requests to the API server; code is none where no answer came.",
    ["verb", "kind", "code"],
    registry=REGISTRY,
)
RECONCILES = Counter(
    "steelyard_operator_reconciles",
    "Passes over one service, by result: done, failed or gone.",
    ["result"],
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "steelyard_operator_reconcile_seconds",
    "How long one pass took.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
ACTIONS = Counter(
    "steelyard_operator_actions",
    "What was done to workers, by action and result: done, late (the pod had changed) or failed.",
    ["action", "result"],
    registry=REGISTRY,
)
FLIPS = Counter(
    "steelyard_operator_flips",
    "Workers of plans that changed roles in place, by the plan's result: done or rolled_back.",
    ["result"],
    registry=REGISTRY,
)
FLIP_SECONDS = Histogram(
    "steelyard_operator_flip_seconds",
    "How long a worker's steps of a flip took: unlabel, drain, role, label.",
    ["phase"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge(
    "steelyard_operator_queue_depth",
    "Services that wait for a pass.",
    registry=REGISTRY,
)
QUEUE_SECONDS = Histogram(
    "steelyard_operator_queue_seconds",
    "How long a service waited for its pass.",
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120),
    registry=REGISTRY,
)
SERVICES = Gauge(
    "steelyard_operator_services",
    "InferenceServices that this operator serves.",
    registry=REGISTRY,
)
PODS = Gauge(
    "steelyard_operator_pods",
    "Workers' pods by role (prefill, decode, both, none) and phase.",
    ["role", "phase"],
    registry=REGISTRY,
)
ROUTER_REQUESTS = Counter(
    "steelyard_operator_router_requests",
    "Readings of routers' signals, by code; code is none where no answer came.",
    ["code"],
    registry=REGISTRY,
)
TICKS = Counter(
    "steelyard_operator_ticks",
    "Ticks of the balance of one service, by what came of them.",
    ["reason"],
    registry=REGISTRY,
)
WORKER_REQUESTS = Counter(
    "steelyard_operator_worker_requests",
    "Requests to workers' admin ports, by path and code; code is none where no answer came.",
    ["path", "code"],
    registry=REGISTRY,
)
LEADER = Gauge(
    "steelyard_operator_leader",
    "1 on the replica that holds the Lease.",
    registry=REGISTRY,
)
RELISTS = Counter(
    "steelyard_operator_relists",
    "How often all objects of a kind were listed.",
    ["kind"],
    registry=REGISTRY,
)
