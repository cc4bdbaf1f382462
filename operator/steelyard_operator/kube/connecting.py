"""The cluster that a person works with, for commands: a client, and the service that was named."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from steelyard_operator.errors import UserError
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.credentials import load
from steelyard_operator.kube.errors import NotFound
from steelyard_operator.kube.kinds import INFERENCE_SERVICE


@asynccontextmanager
async def connected(context: str | None) -> AsyncIterator[Client]:
    """Give a client of the kubeconfig's cluster.

    Args:
        context: of the kubeconfig; its current one where it is not given.

    Raises:
        UserError: there is no kubeconfig, or no such context.
    """
    credentials = await load(os.environ, context=context)
    async with Client(credentials) as client:
        yield client


async def named_service(client: Client, namespace: str, name: str) -> Raw:
    """Return the InferenceService that a person named.

    Raises:
        UserError: there is none.
        ApiError: the API server does not answer, or does not let us read.
    """
    try:
        return await client.get(INFERENCE_SERVICE, namespace, name)
    except NotFound:
        raise UserError(
            f"there is no InferenceService '{name}' in namespace '{namespace}'"
        ) from None
