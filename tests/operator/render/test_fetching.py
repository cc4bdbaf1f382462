"""The container that fetches: whose image it runs, what it is told, and where a Secret may go."""

from pathlib import Path
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.cli import main
from steelyard_operator.errors import UserError
from steelyard_operator.render.fetching import refused_fetch
from steelyard_operator.render.pod import worker_pod
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings, from_environment

OWN = Settings(worker_image="operator/own:1", model_cache_claim="models")
HTTP, HTTPS = "http://", "https://"
SECRET = {"name": "hub", "key": "token"}


def fetching(template: dict[str, Any]) -> dict[str, Any]:
    """The init container of a template."""
    (found,) = template["spec"]["initContainers"]
    return found


def told(container: dict[str, Any]) -> dict[str, Any]:
    """A container's environment."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def env(**variables: str) -> list[dict[str, str]]:
    """Variables as a resource writes them."""
    return [{"name": name, "value": value} for name, value in variables.items()]


def with_env(name: str, **variables: str) -> dict[str, Any]:
    """Roles whose container of this name is given variables."""
    role = {"podTemplate": {"spec": {"containers": [{"name": name, "env": env(**variables)}]}}}
    return {"prefill": role, "decode": role}


@pytest.mark.parametrize("cache", [{}, {"model_cache_claim": "c"}, {"model_cache_host_path": "/c"}])
@pytest.mark.parametrize("backend", ["Native", "VLLM"])
def test_only_the_operators_image_fetches(a_service: Any, cache: Any, backend: str) -> None:
    """It may hold a Secret and write to what other services read."""
    service = a_service(
        model={"uri": "hf://org/name"}, runtime={"image": "evil.example/x", "backend": backend}
    )
    template = worker_template(
        service, Settings(worker_image="operator/own:1", **cache), Role.DECODE
    )

    assert fetching(template)["image"] == "operator/own:1"
    assert template["spec"]["containers"][0]["image"] == "evil.example/x"


def test_what_fetches_sees_an_allowed_list_of_variables(a_service: Any) -> None:
    """Whatever else a service wants is its engine's: a loader's path would run code here."""
    service = a_service(
        model={"uri": "hf://org/name"},
        runtime={
            "env": env(LD_PRELOAD="/models/a.so", HF_ENDPOINT="https://hub.example", HOME="/x")
        },
        **with_env("model", PYTHONPATH="/models", AWS_REGION="r", STEELYARD_CREDENTIAL_HOSTS="*"),
    )
    found = told(fetching(worker_template(service, OWN, Role.DECODE)))

    assert found == {
        "HOME": "/tmp",
        "HF_ENDPOINT": "https://hub.example",
        "AWS_REGION": "r",
        "STEELYARD_CREDENTIAL_HOSTS": "huggingface.co,aws",
    }


@pytest.mark.parametrize(
    "variables",
    [
        {"HTTPS_PROXY": "http://$(HF_TOKEN)"},
        {"AWS_REGION": "$(HF_TOKEN)"},
        {"SSL_CERT_FILE": "/models/ca.json"},
        {"SSL_CERT_FILE": "/etc/../models/ca.json"},
        {"HF_TOKEN": "mine"},
        {"AWS_SHARED_CREDENTIALS_FILE": "/models/credentials"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "https://evil.example"},
        {"AWS_CONFIG_FILE": "/models/config.json"},
        {"AWS_ENDPOINT_URL_STS": "https://evil.example"},
    ],
)
def test_a_variable_that_could_take_a_secret_along_is_left_out(
    a_service: Any, variables: dict[str, str]
) -> None:
    """References to other variables, certificates that a model brings, sources of credentials."""
    service = a_service(model={"uri": "hf://org/name"}, **with_env("model", **variables))
    found = told(fetching(worker_template(service, OWN, Role.DECODE)))

    assert not found.keys() & variables.keys()


def test_a_template_of_an_earlier_operator_is_held_to_it_too(a_service: Any, owner: Any) -> None:
    """Pods are made from templates that are kept; the container that fetches is today's."""
    template = worker_template(
        a_service(model={"uri": "hf://org/name", "credentialsSecretRef": SECRET}), OWN, Role.DECODE
    )
    old = fetching(template)
    old["image"] = "evil.example/x"
    old["env"] += env(LD_PRELOAD="/models/a.so", STEELYARD_CREDENTIAL_HOSTS="*")

    pod = worker_pod(
        owner, template, slot=0, role=Role.DECODE, revision="a", attempt=0, settings=OWN
    )

    assert fetching(pod)["image"] == "operator/own:1"
    assert told(fetching(pod)) == {
        "HOME": "/tmp",
        "HF_TOKEN": {"secretKeyRef": {"name": "hub", "key": "token"}},
        "STEELYARD_CREDENTIAL_HOSTS": "huggingface.co,aws",
    }


ELSEWHERE = {
    "a listener": ("hf://a/b", {"HF_ENDPOINT": "http://127.0.0.1:18397"}),
    "another host": ("hf://a/b", {"HF_ENDPOINT": "https://evil.example"}),
    "plain text": ("hf://a/b", {"HF_ENDPOINT": f"{HTTP}huggingface.co"}),
    "another port": ("hf://a/b", {"HF_ENDPOINT": f"{HTTPS}huggingface.co:444"}),
    "a user's name": ("hf://a/b", {"HF_ENDPOINT": f"{HTTPS}huggingface.co@evil.example"}),
    "a backslash": ("hf://a/b", {"HF_ENDPOINT": "https://evil.example/\\@huggingface.co"}),
    "a suffix": ("hf://a/b", {"HF_ENDPOINT": f"{HTTPS}xhuggingface.co"}),
    "another below": ("hf://a/b", {"HF_ENDPOINT": f"{HTTPS}evil.huggingface.co"}),
    "AWS for a hub": ("hf://a/b", {"HF_ENDPOINT": f"{HTTPS}x.execute-api.us.amazonaws.com"}),
    "a proxy": ("hf://a/b", {"HTTPS_PROXY": "http://evil.example:3128"}),
    "a proxy in small letters": ("hf://a/b", {"https_proxy": "evil.example:3128"}),
    "any proxy": ("s3://a/b", {"ALL_PROXY": "socks5://evil.example"}),
    "a bucket's": ("s3://a/b", {"AWS_ENDPOINT_URL_S3": "https://evil.example"}),
    "all of AWS": ("s3://a/b", {"AWS_ENDPOINT_URL": "https://evil.example"}),
}


@pytest.mark.parametrize("place", ["runtime", "podTemplate"])
@pytest.mark.parametrize(("uri", "variables"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_credentials_go_to_no_host_that_is_not_listed(
    a_service: Any, place: str, uri: str, variables: dict[str, str]
) -> None:
    """The sentence names the variable and the setting; without credentials it is served."""
    more = {"runtime": {"env": env(**variables)}}
    if place == "podTemplate":
        more = with_env("model", **variables)
    public = a_service(model={"uri": uri}, **more)
    private = a_service(model={"uri": uri, "credentialsSecretRef": SECRET}, **more)

    sentence = refused_fetch(private, Settings())

    assert sentence is not None
    assert f"`{next(iter(variables))}` leads to '{next(iter(variables.values()))}'" in sentence
    assert "STEELYARD_CREDENTIAL_HOSTS (now: huggingface.co, aws)" in sentence
    with pytest.raises(UserError, match="STEELYARD_CREDENTIAL_HOSTS"):
        worker_template(private, Settings(), Role.PREFILL)
    assert refused_fetch(public, Settings()) is None


@pytest.mark.parametrize(
    ("hosts", "address"),
    [
        ("hub.example", "https://hub.example/mirror"),
        ("hub.example", "https://hub.example:443"),
        ("hub.example:8443", "https://hub.example:8443"),
        ("*.hub.example", "https://eu.hub.example"),
        ("http://hub.example:9000", "http://hub.example:9000"),
        ("*", "https://anything.example:1"),
    ],
)
def test_an_administrator_lists_hosts(a_service: Any, hosts: str, address: str) -> None:
    """Exactly, or all below one, with a port; plain text only where it says so."""
    settings = from_environment({"STEELYARD_CREDENTIAL_HOSTS": f"huggingface.co, {hosts}"})
    service = a_service(
        model={"uri": "hf://a/b", "credentialsSecretRef": SECRET},
        runtime={"env": env(HF_ENDPOINT=address)},
    )

    assert refused_fetch(service, settings) is None
    assert fetching(worker_template(service, settings, Role.DECODE))["env"][-1] == {
        "name": "STEELYARD_CREDENTIAL_HOSTS",
        "value": f"huggingface.co,{hosts}",
    }


@pytest.mark.parametrize("entry", ["https://a/b", "a b", "a:b", "*a", "ftp://a", "a@b"])
def test_a_host_of_another_form_stops_the_operator(entry: str) -> None:
    """Before it serves anything."""
    with pytest.raises(UserError, match=r"STEELYARD_CREDENTIAL_HOSTS must be a list of"):
        from_environment({"STEELYARD_CREDENTIAL_HOSTS": entry})


def test_an_address_that_names_another_variable_is_refused(a_service: Any) -> None:
    """Kubernetes would put the token in its place, and the sentence about it into the status."""
    service = a_service(model={"uri": "hf://evil/$(HF_TOKEN)", "credentialsSecretRef": SECRET})

    assert refused_fetch(service, Settings()) == (
        "`spec.model.uri` is 'hf://evil/$(HF_TOKEN)'; it must not have '$('"
    )


@pytest.mark.parametrize("command", [["render"], ["plan", "--empty"]])
def test_a_preview_refuses_it_too(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and the same sentence."""
    file = tmp_path / "service.yaml"
    file.write_text(
        "{apiVersion: steelyard.dev/v1alpha1, kind: InferenceService, metadata: {name: s}, spec: "
        "{model: {uri: 'hf://a/b', credentialsSecretRef: {name: hub, key: token}}, "
        "runtime: {env: [{name: HF_ENDPOINT, value: 'https://evil.example'}]}}}"
    )

    assert main([command[0], str(file), *command[1:]]) == 2
    assert "STEELYARD_CREDENTIAL_HOSTS" in capsys.readouterr().err
