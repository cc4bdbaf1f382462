"""Typed configuration of a worker; `cli.py` fills it from flags. Imports no torch.

Secrets are read from files or the environment by `cli.py` and travel to the engine process over
the private socket, never in argv.
"""

import msgspec


class TransferConfig(msgspec.Struct, frozen=True):
    """How KV blocks move between workers."""

    transport: str = "auto"  # auto | tcp | nixl; auto is nixl where importable
    listen_host: str = "127.0.0.1"
    advertise_host: str = "127.0.0.1"
    port: int = 5600  # 0: any free port
    peers: tuple[str, ...] = ("127.0.0.0/8",)  # CIDR ranges that decode may pull from
    token: str = ""  # the service's token; frames are HMAC'd with it
    lease_seconds: float = 30.0
    deadline_seconds: float = 10.0  # pull longer than this: recompute locally
    enabled: bool = True  # without it nothing listens, and prompts are computed where they arrive


class EngineConfig(msgspec.Struct, frozen=True):
    """Everything that the engine process needs."""

    model: str  # a path, or a URI: package://distribution/file, file:///path
    engine_id: str
    role: str = "both"
    device: str = "cpu"
    dtype: str = "auto"  # auto: float32 on a CPU, bfloat16 on CUDA
    max_model_len: int | None = None  # None: the checkpoint's
    block_size: int = 16
    num_blocks: int | None = None  # overrides kv_cache_bytes
    kv_cache_bytes: int | None = None  # None: 512 MiB on a CPU, what is free on a GPU
    gpu_memory_utilization: float = 0.9  # share of the GPU's memory for weights, steps and cache
    enforce_eager: bool = False  # record no CUDA graphs
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 256
    max_waiting_requests: int = 256
    prefix_caching: bool = True
    threads: int | None = None  # None: all cores
    chat_template: str | None = None  # the template in force, a part of the fingerprint
    transfer: TransferConfig = TransferConfig()
