"""A document runs no program on the machine of whoever calls `steelyard up` with it."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from steelyard_operator.api.load import load
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.errors import UserError
from steelyard_operator.local.environment import (
    ALLOWED,
    require_allowed_variables,
    require_own_addresses,
)

ROOT = Path(__file__).parents[3]
# Each runs or loads what it names, in some library that a worker has.
RUN_SOMETHING = [
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PATH", "PYTHONPATH", "PYTHONSTARTUP"),
    *("PYTHONHOME", "PYTHONINSPECT", "PYTHONUSERBASE", "PYTHONBREAKPOINT", "PYTHONSAFEPATH"),
    *("CXX", "CUDA_HOME", "OMP_TOOL_LIBRARIES", "UCX_MODULE_DIR", "NCCL_NET_PLUGIN"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "TORCH_EXTENSIONS_DIR", "HOME"),
    *(
        "XDG_CACHE_HOME",
        "STEELYARD_KERNELS_DIR",
        "STEELYARD_TEST_FAULTS",
        "STEELYARD_SERVICE_TOKEN",
    ),
    *("GLIBC_TUNABLES", "BASH_ENV", "TMPDIR", "SSL_CERT_FILE", "ld_preload", "NEW_IN_NEXT_RELEASE"),
]
TEXT = """
apiVersion: steelyard.dev/v1alpha1
kind: InferenceService
metadata: {{name: s}}
spec:
  model: {{uri: "file:///m.gguf"}}
  runtime:
    env: [{{name: OMP_NUM_THREADS, value: "1"}}, {{name: {name}, value: {value}}}]
"""


@pytest.mark.parametrize("name", RUN_SOMETHING)
def test_a_variable_that_is_not_listed_is_refused(name: str) -> None:
    """One sentence names file, field and variable."""
    service = load(TEXT.format(name=name, value="/tmp/x"), "f.yaml")

    with pytest.raises(UserError) as refused:
        require_allowed_variables(service, "f.yaml")

    assert str(refused.value).startswith(
        f"f.yaml: `spec.runtime.env[1].name` may not be '{name}' on one machine"
    )


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_variable_that_tunes_is_allowed(name: str) -> None:
    """Each of the list."""
    require_allowed_variables(load(TEXT.format(name=name, value="x"), "f.yaml"), "f.yaml")


@pytest.mark.parametrize("argument", ["--host", "--host=0.0.0.0", "--kv-peers", "--api-key-file"])
def test_a_document_does_not_say_who_reaches_a_worker(argument: str) -> None:
    """Processes of a person's machine listen for that machine."""
    text = TEXT.format(name="TZ", value="UTC") + f"    extraArgs: ['{argument}', '0.0.0.0']\n"

    with pytest.raises(UserError, match=r"`spec.runtime.extraArgs\[0\]` may not be"):
        require_own_addresses(load(text, "f.yaml"), "f.yaml")


def test_other_arguments_are_the_documents(sample: InferenceService) -> None:
    """What tunes a worker."""
    text = TEXT.format(name="TZ", value="UTC") + "    extraArgs: [--max-num-seqs, '4']\n"

    require_own_addresses(load(text, "f.yaml"), "f.yaml")
    require_own_addresses(sample, "smollm2.yaml")


def test_the_contract_has_the_list() -> None:
    """What a person is told to look at is what holds."""
    section = (ROOT / "docs/contract.md").read_text().split("\n## 8. ")[1].split("\n## ")[0]

    assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", section)) >= ALLOWED


def test_up_refuses_before_anything_is_started(steelyard: Any, tmp_path: Path) -> None:
    """Exit code 2 and one sentence; no process was started, and what was named did not run."""
    mark = tmp_path / "ran"
    module = tmp_path / "modules"
    module.mkdir()
    (module / "sitecustomize.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    file = tmp_path / "s.yaml"
    file.write_text(TEXT.format(name="PYTHONPATH", value=module))

    done = steelyard.run("up", str(file), "--prompt", "hi")

    assert done.returncode == 2
    assert "may not be 'PYTHONPATH' on one machine" in done.stderr
    assert done.stderr.count("\n") == 1
    assert steelyard.log() == []
    assert not mark.exists()


def test_the_current_folder_lends_no_modules(tmp_path: Path) -> None:
    """A worker starts its engine by `python -m`, which would look there first."""
    from steelyard_operator.local.up import _environment

    given = _environment({"PYTHONPATH": "/mine", "STEELYARD_API_KEY": "k"}, tmp_path)

    assert given["PYTHONSAFEPATH"] == "1"
    assert given["PYTHONPATH"] == "/mine"
    assert "STEELYARD_API_KEY" not in given
    assert sys.version_info >= (3, 11), "older ones do not know the variable"
