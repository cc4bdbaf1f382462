"""Puts an engine together from its configuration: checkpoint, model, pool, scheduler, transfer."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

import torch

from steelyard_runtime.checkpoint_files.digest import model_digest
from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.config import EngineConfig
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.limits import SchedulerConfig
from steelyard_runtime.core.roles import Role
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine.engine import Engine
from steelyard_runtime.engine.gpu_memory import free_for_kv
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.model_runner import ModelRunner
from steelyard_runtime.errors import CheckpointError, ConfigError
from steelyard_runtime.ipc.messages import Ready
from steelyard_runtime.models.batch import Model
from steelyard_runtime.models.checkpoint import Checkpoint, open_checkpoint
from steelyard_runtime.models.fingerprint import fingerprint
from steelyard_runtime.models.registry import load_model
from steelyard_runtime.structured.matchers import GrammarVocabulary
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.tokenization.loading import load_tokenizer
from steelyard_runtime.tokenization.tokenizer import Tokenizer
from steelyard_runtime.transfer.interface import Transfer
from steelyard_runtime.transfer.registry import make_transfer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_KV_CACHE_BYTES = 512 * 1024**2
OnProgress = Callable[[Literal["load", "warmup"], int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Assembly:
    """A loaded engine and what describes it to the HTTP process."""

    engine: Engine
    runner: ModelRunner
    transfer: Transfer
    grammars: GrammarService
    ready: Ready

    def close(self) -> None:
        """Stop the threads and processes beside the step thread."""
        self.grammars.close()
        self.transfer.close()


def assemble(
    config: EngineConfig, *, on_progress: OnProgress, wake: Callable[[], None]
) -> Assembly:
    """Load everything and warm up.

    Args:
        config: the worker's configuration.
        on_progress: told the stage (`load`, `warmup`) and its percent.
        wake: called from other threads when an event is waiting.

    Raises:
        ConfigError: a flag, the checkpoint, the device or a port is wrong.
    """
    device = _device(config.device)
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    path = resolve(config.model)
    checkpoint = open_checkpoint(path)
    dtype = _dtype(config.dtype, device)
    tokenizer = load_tokenizer(path, config.chat_template)
    check_vocabulary(checkpoint, tokenizer)
    on_progress("load", 10)
    model = load_model(checkpoint, device, dtype, config.block_size)
    on_progress("load", 80)
    pool = _pool(config, model, device)
    mark = fingerprint(
        checkpoint.config,
        model.kv_geometry,
        model_digest=model_digest(path),
        tokenizer_digest=tokenizer.digest,
        weight_dtype=str(dtype).removeprefix("torch."),
    )
    max_model_len = _max_model_len(config, model)
    # Either may know an end of turn that the other does not declare.
    eos_token_ids = model.eos_token_ids | frozenset(tokenizer.eos_token_ids)
    scheduler = Scheduler(
        SchedulerConfig(
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_waiting_requests=config.max_waiting_requests,
            block_size=config.block_size,
            max_model_len=max_model_len,
            prefix_caching=config.prefix_caching,
            role=Role(config.role),
            eos_token_ids=eos_token_ids,
            fingerprint=mark,
        ),
        BlockManager(pool.num_blocks),
    )
    on_progress("load", 100)
    grammars = GrammarService(
        lambda: GrammarVocabulary(
            tokenizer.to_json(), model.vocab_size, tuple(sorted(eos_token_ids))
        ),
        wake=wake,
    )
    preparing = threading.Thread(target=grammars.prepare, name="grammar-vocabulary", daemon=True)
    preparing.start()
    runner = ModelRunner(model, pool, device)
    on_progress("warmup", 0)
    runner.warm_up(config.max_num_batched_tokens)
    if not config.enforce_eager:
        on_progress("warmup", 50)
        runner.record_graphs(config.max_num_seqs, max_model_len)
    on_progress("warmup", 100)
    preparing.join()
    transfer = make_transfer(
        config.transfer,
        engine_id=config.engine_id,
        fingerprint=mark,
        memory=pool,
        environment=os.environ,
        on_event=wake,
    )
    transfer.start()
    engine = Engine(
        scheduler=scheduler,
        runner=runner,
        grammars=grammars,
        transfer=transfer,
        eos_token_ids=eos_token_ids,
        vocab_size=model.vocab_size,
        fingerprint=mark,
        clock_ns=time.monotonic_ns,
    )
    ready = Ready(
        engine_id=config.engine_id,
        fingerprint=mark,
        max_model_len=max_model_len,
        vocab_size=model.vocab_size,
        block_size=config.block_size,
        num_blocks=pool.num_blocks,
        kv_port=transfer.port,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
    )
    return Assembly(engine, runner, transfer, grammars, ready)


def check_vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for: one would end a step."""
    if tokenizer.vocab_size > checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the "
            f"model's vocabulary ends at {checkpoint.config.vocab_size - 1}"
        )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda was given, but torch finds no CUDA device; use cpu")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[name]


def _pool(config: EngineConfig, model: Model, device: torch.device) -> KVPool:
    if config.num_blocks is not None:
        return KVPool(model.kv_geometry, config.num_blocks, device)
    limit_bytes = config.kv_cache_bytes
    if limit_bytes is None:
        limit_bytes = CPU_KV_CACHE_BYTES
        if device.type == "cuda":
            limit_bytes = free_for_kv(
                model,
                device,
                config.gpu_memory_utilization,
                config.max_num_batched_tokens,
                config.max_num_seqs,
            )
    return KVPool.of_bytes(model.kv_geometry, limit_bytes, device)


def _max_model_len(config: EngineConfig, model: Model) -> int:
    if config.max_model_len is None:
        return model.max_position
    if config.max_model_len > model.max_position:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}; the checkpoint allows at most "
            f"{model.max_position}"
        )
    return config.max_model_len
