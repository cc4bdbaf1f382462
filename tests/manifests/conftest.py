"""Kustomize, as kubectl has it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Documents = list[dict[str, Any]]


@pytest.fixture(scope="session")
def kustomize() -> Callable[[str | Path], Documents]:
    """Return the documents that a folder makes."""
    assets = os.environ.get("KUBE_ASSETS")
    kubectl = shutil.which("kubectl", path=assets) if assets else shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl in the folder $KUBE_ASSETS or in PATH")

    def build(folder: str | Path) -> Documents:
        command = [kubectl, "kustomize", str(ROOT / folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return build


@pytest.fixture
def find() -> Callable[[Documents, str, str], dict[str, Any]]:
    """Return the one document of a kind and name; a generated name may carry a hash."""

    def one(documents: Documents, kind: str, name: str) -> dict[str, Any]:
        found = [
            document
            for document in documents
            if document["kind"] == kind
            and (document["metadata"]["name"] + "-").startswith(name + "-")
        ]
        exact = [document for document in found if document["metadata"]["name"] == name]
        assert len(exact or found) == 1, json.dumps(found)
        return (exact or found)[0]

    return one
