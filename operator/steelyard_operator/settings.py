"""How one operator is set up: environment variables become frozen settings.

Pure: the environment is an argument. What one service wants is the resource's, not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard_operator import __version__, credential_hosts
from steelyard_operator.errors import UserError

PREFIX = "STEELYARD_"

# Where pods usually have their addresses: RFC 1918 and RFC 6598.
PRIVATE_RANGES = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10"


@dataclass(frozen=True, slots=True)
class Settings:
    """One operator's settings; each is the variable STEELYARD_<NAME>."""

    namespace: tuple[str, ...] = ()
    """The namespaces that are watched, each with the rights of manifests/base/served; none: all."""
    operator_namespace: str = "steelyard-system"
    """Where the operator runs: its Lease, and the peer of the NetworkPolicies' admin rule."""
    former_operator_namespace: str = ""
    """Where the operator ran before it moved: its pods there are admitted as well."""
    operator_class: str = ""
    """Only resources with this value of the label steelyard.dev/operator-class are served."""
    worker_image: str = f"steelyard-runtime:{__version__}"
    router_image: str = f"steelyard-router:{__version__}"
    vllm_image: str = "vllm/vllm-openai:v0.32.0"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    ca_config_map: str = ""
    """A ConfigMap with the key ca.crt in the service's namespace, mounted where set."""
    spread_topology_key: str = "kubernetes.io/hostname"
    """Workers and routers are spread over this node label; empty: not."""
    model_cache_claim: str = ""
    """A PersistentVolumeClaim in the service's namespace that keeps downloads; empty: emptyDir."""
    model_cache_host_path: str = ""
    """A directory of the node that keeps downloads; needs a namespace that admits hostPath."""
    credential_hosts: tuple[str, ...] = ("huggingface.co", "aws")
    """Where credentials of services may be sent (credential_hosts.py)."""
    denied_pod_metadata: tuple[str, ...] = ()
    """Beginnings of names of labels and annotations that no `podTemplate` may have."""
    kv_peers: str = PRIVATE_RANGES
    """Address ranges that decode workers may pull KV blocks from."""
    cluster_domain: str = "cluster.local"
    service_account_router: str = "steelyard-router"
    master_key_file: str = "/var/run/steelyard/master-key"
    """The key that every service's token is derived from."""
    master_key_secret: str = "steelyard-master-key"  # noqa: S105  # a name
    """The Secret that it is in; no resource may name it."""
    lease_seconds: float = 15.0
    metrics_port: int = 8080
    tick_seconds: float = 5.0
    """Between two readings of a service's demand."""
    max_concurrent_reconciles: int = 16


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings that environment variables give.

    Raises:
        UserError: a variable has a value of the wrong form.
    """
    given: dict[str, object] = {}
    for name, default in Settings().__class__.__dataclass_fields__.items():
        text = environment.get(PREFIX + name.upper())
        if text is None:
            continue
        given[name] = _convert(PREFIX + name.upper(), text, default.default)
    if given.get("tick_seconds", 1.0) <= 0:  # type: ignore[operator]  # a number, see _convert
        raise UserError(
            f"the environment variable {PREFIX}TICK_SECONDS must be above 0, "
            f"got '{environment[PREFIX + 'TICK_SECONDS']}'"
        )
    settings = Settings(**given)  # type: ignore[arg-type]  # names and types are the fields' own
    credential_hosts.parse(settings.credential_hosts)
    return settings


def _convert(variable: str, text: str, default: object) -> object:
    if default is None:
        return text or None
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, (int, float)):
        try:
            return type(default)(text)
        except ValueError:
            raise UserError(
                f"the environment variable {variable} must be a number, got '{text}'"
            ) from None
    return text
