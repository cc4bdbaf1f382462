"""A client of the cluster that a person works with, for commands."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from steelyard_operator.kube.client import Client
from steelyard_operator.kube.credentials import load


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
