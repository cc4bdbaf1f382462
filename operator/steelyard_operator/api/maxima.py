"""The most that a resource may ask for, and the types of its numbers. Data only.

Each maximum lies far above real use: it is there so that one resource costs the operator, the API
server and etcd a bounded amount, whoever wrote it (docs/adr/0021).
"""

from typing import Annotated

from pydantic import AwareDatetime, Field

MOST_REPLICAS = 4096
"""Workers of a role. Kubernetes itself is tested with 5,000 nodes; a pass over 8,192 pods takes the
operator a quarter of a second."""
MOST_ACCELERATORS = 16_384
"""Of a service: four for each worker that a role may have; a node has at most 16."""
MOST_ROUTERS = 256
"""Each serves thousands of streams."""
MOST_PERCENT = 100 * MOST_REPLICAS
"""Of prefill in relation to decode workers: all workers of a role beside one of the other."""
MOST_MILLISECONDS = 3_600_000
"""Of a latency objective: an hour."""
MOST_TOKENS = 2**26
"""Of a prompt and its answer; the longest contexts of published models are 10 million."""
MOST_TEXT = 40_000
"""Characters of all arguments and variables of the engine together, and again of a pod template.
A character may take six bytes as JSON: with both, a pod, a ControllerRevision and the resource with
two such templates stay below the 1.5 MiB that etcd takes."""
LONGEST_KEY = 317
"""Of a label or annotation: a DNS name of 253 characters, a slash, and a name of 63."""
LONGEST_TIME = 64
"""Of a time as RFC 3339 writes it, whose fraction of a second may have any number of digits."""

Replicas = Annotated[int, Field(strict=True, ge=0, le=MOST_REPLICAS)]
"""A number of workers of a role."""

PositiveReplicas = Annotated[int, Field(strict=True, ge=1, le=MOST_REPLICAS)]
"""A number of workers that may not be zero."""

RouterReplicas = Annotated[int, Field(strict=True, ge=1, le=MOST_ROUTERS)]
"""A number of routers."""

Accelerators = Annotated[int, Field(strict=True, ge=1, le=MOST_ACCELERATORS)]
"""A number of accelerators."""

RatioPercent = Annotated[int, Field(strict=True, ge=1, le=MOST_PERCENT)]
"""A ratio of prefill to decode workers."""

ObjectiveMilliseconds = Annotated[int, Field(strict=True, ge=1, le=MOST_MILLISECONDS)]
"""A latency to keep."""

ModelTokens = Annotated[int, Field(strict=True, ge=1, le=MOST_TOKENS)]
"""A number of tokens of one request."""

Key = Annotated[str, Field(max_length=LONGEST_KEY)]
"""The key of a label, of an annotation, or of a resource."""

Time = Annotated[AwareDatetime, Field(json_schema_extra={"maxLength": LONGEST_TIME})]
"""A time with its zone."""
