"""What backends and the router render, as golden files: a reviewer reads the difference.

`STEELYARD_UPDATE_GOLDEN=1 pytest tests/operator/backends` writes them anew.
"""

import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from steelyard_operator.api.load import load
from steelyard_operator.api.names import Role
from steelyard_operator.backends.base import (
    Command,
    Container,
    Endpoints,
    RouterPlacement,
    WorkerPlacement,
)
from steelyard_operator.backends.native import NativeBackend
from steelyard_operator.backends.router import router
from steelyard_operator.backends.vllm import VLLMBackend

GOLDEN = Path(__file__).with_name("testdata")

SMALL = """
apiVersion: steelyard.dev/v1alpha1
kind: InferenceService
metadata: {name: small}
spec:
  model: {uri: "file:///models/small.gguf"}
"""

FULL = """
apiVersion: steelyard.dev/v1alpha1
kind: InferenceService
metadata: {name: full}
spec:
  model: {uri: "package://a/b.gguf", servedName: full, maxModelLen: 1024}
  runtime:
    extraArgs: [--max-num-seqs, "4"]
    env: [{name: OMP_WAIT_POLICY, value: active}, {name: MKL_DEBUG, value: "1"}]
  rollout: {drainSeconds: 7}
"""

LOCAL = WorkerPlacement(
    host="127.0.0.1",
    port=20000,
    admin_port=20001,
    kv_host="127.0.0.1",
    kv_port=20002,
    kv_peers=("127.0.0.1/32",),
    service_token_file="/scratch/service-token",
    role=Role.PREFILL,
    threads=1,
)
POD = WorkerPlacement(
    host="0.0.0.0",
    port=8000,
    admin_port=8001,
    kv_host="$(POD_IP)",
    kv_port=5600,
    kv_peers=("10.0.0.0/8", "fd00::/8"),
    service_token_file="/var/run/steelyard/token",
    role_file="/etc/steelyard/labels",
    model="file:///models",
    kv_data_ports="5610-5649",
)
GPU = replace(POD, cuda=True, tensor_parallel=2)
ROUTER = RouterPlacement("127.0.0.1", 8080, "/scratch/membership.json")
GUARDED_ROUTER = RouterPlacement(
    "0.0.0.0",
    8080,
    Endpoints("ns", "full-prefill", "full-decode"),
    api_keys_file="/keys",
    worker_api_key_file="/worker-key",
)

native, vllm = NativeBackend(), VLLMBackend()

CASES = {
    "worker_local": lambda: native.worker(load(SMALL, "f"), LOCAL),
    "worker_pod": lambda: native.worker(load(FULL, "f"), POD),
    "worker_gpu": lambda: native.worker(load(SMALL, "f"), GPU),
    "vllm_pod": lambda: vllm.worker(load(FULL, "f"), POD),
    "vllm_gpu": lambda: vllm.worker(load(SMALL, "f"), GPU),
    "router_local": lambda: router(load(SMALL, "f"), ROUTER),
    "router_pod": lambda: router(load(FULL, "f"), GUARDED_ROUTER),
}


def as_yaml(container: Container) -> str:
    """Return a container as YAML, the command line with a flag and its value on one line."""
    fields = asdict(container)
    fields["command"] = " ".join(container.command).replace(" --", "\n--") + "\n"
    if isinstance(container.pre_stop, Command):
        fields["pre_stop"] = "\n".join(container.pre_stop.words)
    yaml.SafeDumper.add_representer(str, _block)
    return yaml.safe_dump(fields, sort_keys=False)


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


@pytest.mark.parametrize("name", CASES)
def test_rendering_is_as_recorded(name: str) -> None:
    """A change of what runs in a pod or process shows in a golden file."""
    file = GOLDEN / f"{name}.yaml"
    rendered = as_yaml(CASES[name]())
    if os.environ.get("STEELYARD_UPDATE_GOLDEN"):
        file.write_text(rendered)

    assert rendered == file.read_text()
