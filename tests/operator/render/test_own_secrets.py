"""No resource gets at a Secret of the operator, in whatever field it names it."""

from pathlib import Path
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.cli import main
from steelyard_operator.errors import UserError
from steelyard_operator.render.names import token_secret_name
from steelyard_operator.render.own_secrets import own_secret_named
from steelyard_operator.render.pod import worker_pod
from steelyard_operator.render.router import router_template
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings

UID = "5f0c3a1b-7d6e-4b2f-9a55-0123456789ab"
OWN = [
    "steelyard-master-key",
    "steelyard-master-key-7g8hk2m5tc",  # as kustomize names it
    token_secret_name("another", UID),
    f"another-worker-key-{UID[:8]}",
]
OTHERS = ["hub", "steelyard", "my-token", "hub-token-abcde", "steelyard-master-keys", "worker-key"]


def naming(secret: str) -> dict[str, dict[str, Any]]:
    """Return specs that name a Secret, by the field."""
    reference = {"name": secret, "key": "key"}
    model = {"uri": "hf://a/b", "credentialsSecretRef": reference}
    pods = {"podTemplate": {"spec": {"imagePullSecrets": [{"name": "x"}, {"name": secret}]}}}
    return {
        "spec.model.credentialsSecretRef.name": {"model": model},
        "spec.router.apiKeysSecretRef.name": {"router": {"apiKeysSecretRef": reference}},
        "spec.speculation.draft.model.credentialsSecretRef.name": {
            "speculation": {"method": "DraftModel", "draft": {"model": model}}
        },
        "spec.decode.podTemplate.spec.imagePullSecrets[1].name": {
            "decode": pods,
            "rebalancing": {"flip": "Disabled"},
        },
    }


@pytest.mark.parametrize("secret", OWN)
@pytest.mark.parametrize("field", naming(""))
def test_nothing_is_made_from_a_resource_that_names_one(
    a_service: Any, owner: Any, field: str, secret: str
) -> None:
    """One sentence names the field and the Secret; neither workers nor routers are rendered."""
    service = a_service(**naming(secret)[field])

    sentence = own_secret_named(service, Settings())
    assert sentence is not None
    assert sentence.startswith(f"`{field}` must not name a Secret of the operator")
    assert sentence.endswith(f"got '{secret}'")
    with pytest.raises(UserError, match="must not name a Secret of the operator"):
        worker_template(service, Settings(), Role.PREFILL)
    with pytest.raises(UserError, match="must not name a Secret of the operator"):
        router_template(owner, service, Settings())


@pytest.mark.parametrize(
    "spec",
    [
        {"imagePullSecrets": [{"name": "steelyard-master-key"}]},
        {"volumes": [{"name": "credentials", "secret": {"secretName": "steelyard-master-key"}}]},
        {
            "initContainers": [
                {
                    "env": [
                        {
                            "name": "HF_TOKEN",
                            "valueFrom": {"secretKeyRef": {"name": "steelyard-master-key"}},
                        }
                    ]
                }
            ]
        },
    ],
    ids=["pull", "volume", "variable"],
)
def test_no_pod_is_made_from_an_older_template_that_names_one(
    a_service: Any, owner: Any, spec: dict[str, Any]
) -> None:
    """What was stored before the operator refused it is refused when a pod is made."""
    template = worker_template(a_service(), Settings(), Role.DECODE)
    template["spec"] |= spec

    with pytest.raises(UserError, match="names 'steelyard-master-key', a Secret of the operator"):
        worker_pod(
            owner,
            template,
            slot=0,
            role=Role.DECODE,
            revision="r",
            attempt=0,
            settings=Settings(),
        )


@pytest.mark.parametrize("secret", OTHERS)
def test_other_secrets_are_the_users_own(a_service: Any, secret: str) -> None:
    """Also those whose names come near."""
    for spec in naming(secret).values():
        assert own_secret_named(a_service(**spec), Settings()) is None


def test_the_master_key_may_have_another_name(a_service: Any) -> None:
    """The setting says which Secret it is."""
    service = a_service(**naming("vault-key")["spec.model.credentialsSecretRef.name"])

    assert own_secret_named(service, Settings(master_key_secret="vault-key")) is not None


@pytest.mark.parametrize("command", [["render"], ["plan", "--empty"]])
def test_the_commands_refuse_it_with_one_sentence(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with the file's name."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "apiVersion: steelyard.dev/v1alpha1\nkind: InferenceService\nmetadata: {name: mine}\n"
        "spec:\n  model:\n    uri: hf://a/b\n"
        "    credentialsSecretRef: {name: steelyard-master-key, key: key}\n"
    )

    assert main([*command, str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "mine.yaml: `spec.model.credentialsSecretRef.name` must not name a Secret" in said.err
    assert said.err.count("\n") == 1
