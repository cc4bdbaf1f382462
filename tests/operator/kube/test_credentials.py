"""A kubeconfig that cannot be used is one sentence with its name, whatever is wrong with it."""

from pathlib import Path

import pytest

from steelyard_operator.errors import UserError
from steelyard_operator.kube.credentials import load

pytestmark = pytest.mark.anyio

WHOLE = """\
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://localhost:6443/", CLUSTER}}]
users: [{name: u, user: {token: secret}}]
"""


def written(folder: Path, text: str) -> dict[str, str]:
    """Write a kubeconfig; returns the environment that names it."""
    file = folder / "kubeconfig"
    file.write_text(text)
    return {"KUBECONFIG": str(file)}


async def test_a_kubeconfig_is_read(tmp_path: Path) -> None:
    """Its server and its user's token."""
    given = written(tmp_path, WHOLE.replace("CLUSTER", "insecure-skip-tls-verify: true"))
    found = await load(given)

    assert found.server == "https://localhost:6443"
    assert (await found.headers())["authorization"] == "Bearer secret"
    assert found.tls().check_hostname is False


@pytest.mark.parametrize(
    "text",
    ["{:", "just text", "[]", "kind: Config", "contexts: [{name: a}]\ncurrent-context: a", "a: 5"],
)
async def test_another_form_is_one_sentence(tmp_path: Path, text: str) -> None:
    """Also where the package that reads it only stumbles."""
    given = written(tmp_path, text)
    with pytest.raises(UserError, match=r"^the kubeconfig .*/kubeconfig. cannot be used: ") as said:
        await load(given)
    assert "\n" not in str(said.value)


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Not 'current-context is missing', which is what its reader says."""
    with pytest.raises(UserError, match=r"KUBECONFIG names '.*/nothing', which is no file"):
        await load({"KUBECONFIG": str(tmp_path / "nothing")})


async def test_nothing_at_all_says_what_to_do(tmp_path: Path) -> None:
    """Outside a pod."""
    with pytest.raises(UserError, match="set KUBECONFIG to a kubeconfig file"):
        await load({"HOME": str(tmp_path)})


async def test_a_broken_authority_names_its_server(tmp_path: Path) -> None:
    """When the first connection is prepared."""
    given = written(tmp_path, WHOLE.replace("CLUSTER", "certificate-authority-data: bm9uZQ=="))
    found = await load(given)
    with pytest.raises(UserError, match=r"key for https://localhost:6443 cannot be read"):
        found.tls()
