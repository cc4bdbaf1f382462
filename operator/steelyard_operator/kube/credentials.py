"""How the API server is reached: a pod's ServiceAccount, else a kubeconfig file.

The official package reads both forms and renews tokens; what it found is used by our client and,
through `connection`, by kopf.
"""

import os
import ssl
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kopf
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.incluster_config import (
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
)

from steelyard_operator.errors import UserError

# The package says what is missing from a kubeconfig; of one with another form it says nothing.
UNUSABLE = (
    *(config.ConfigException, yaml.YAMLError, OSError),
    *(AttributeError, KeyError, TypeError, ValueError),
)


class Credentials:
    """Where the API server is, and who we are."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration

    @property
    def server(self) -> str:
        """The address of the API server, without a path at its end."""
        return str(self._configuration.host).rstrip("/")

    @property
    def proxy(self) -> str | None:
        """The HTTP proxy that leads there, where the kubeconfig names one."""
        return self._configuration.proxy or None

    async def headers(self) -> dict[str, str]:
        """Return the headers that say who we are; a token that was renewed is the new one."""
        found = await self._configuration.auth_settings()
        return {one["key"]: one["value"] for one in found.values() if one["in"] == "header"}

    def tls(self) -> ssl.SSLContext:
        """Return how the server is verified, and our certificate if we have one.

        Raises:
            UserError: a certificate or a key cannot be read.
        """
        given = self._configuration
        try:
            context = ssl.create_default_context(
                cafile=given.ssl_ca_cert, cadata=given.ca_cert_data
            )
            if given.cert_file:
                context.load_cert_chain(given.cert_file, keyfile=given.key_file)
        except (OSError, ValueError) as error:
            raise UserError(
                f"a certificate or key for {self.server} cannot be read: {error}"
            ) from None
        if not given.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        # Clusters' own certificate authorities often lack what Python 3.13 demands of one.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    async def connection(self) -> kopf.ConnectionInfo:
        """Return the same for kopf, which asks again when the server says 401."""
        given = self._configuration
        scheme, _, token = (await self.headers()).get("authorization", "").partition(" ")
        return kopf.ConnectionInfo(
            server=self.server,
            ca_path=given.ssl_ca_cert,
            ca_data=given.ca_cert_data,
            insecure=not given.verify_ssl,
            scheme=scheme.capitalize() or None,
            token=token.strip() or None,
            certificate_path=given.cert_file,
            private_key_path=given.key_file,
            proxy_url=self.proxy,
        )


async def load(
    environment: Mapping[str, str] = os.environ, *, context: str | None = None
) -> Credentials:
    """Find the credentials: KUBECONFIG, else the pod's ServiceAccount, else ~/.kube/config.

    Args:
        environment: where KUBECONFIG and HOME are looked up.
        context: of the kubeconfig; its current one where it is not given.

    Raises:
        UserError: there are none.
    """
    # The default configuration is shared by the process; ours is its own.
    configuration = Configuration()
    named = environment.get("KUBECONFIG")
    if named and os.pathsep not in named and not _is_file(named):
        raise UserError(f"KUBECONFIG names '{named}', which is no file")
    in_pod = SERVICE_HOST_ENV_NAME in environment and _is_file(SERVICE_TOKEN_FILENAME)
    usual = _usual_file(environment)
    try:
        if not named and in_pod:
            config.load_incluster_config(  # type: ignore[no-untyped-call]  # untyped package
                client_configuration=configuration
            )
        elif named or usual:
            with warnings.catch_warnings():
                # A kubeconfig with a warning is still one; kubectl is silent about these too.
                warnings.simplefilter("ignore")
                await config.load_kube_config(  # type: ignore[no-untyped-call]  # untyped package
                    config_file=named or usual,
                    context=context,
                    client_configuration=configuration,
                )
        else:
            raise UserError(
                "no cluster: run the operator in a pod, or set KUBECONFIG to a kubeconfig file"
            )
    except UNUSABLE as error:
        said = " ".join(str(error).split())
        raise UserError(f"the kubeconfig '{named or usual}' cannot be used: {said}") from None
    return Credentials(configuration)


def _is_file(name: str) -> bool:
    return Path(name).is_file()


def _usual_file(environment: Mapping[str, str]) -> str | None:
    file = Path(environment.get("HOME", "/")) / ".kube/config"
    return str(file) if file.is_file() else None
