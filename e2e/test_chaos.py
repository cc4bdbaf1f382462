"""Random scenarios, one after the other: `make chaos MINUTES=20`."""

import random
import time
from collections.abc import Callable

import pytest

from harness.clusters import Cluster
from harness.scenarios import SCENARIOS
from harness.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(7200)]


def test_nothing_fails_for_a_while(
    cluster: Cluster, ground: Service, play: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    """Whatever the order of faults, no request fails, and at the end the service is steady."""
    option = request.config.option
    choose = random.Random(option.seed)
    possible = [
        scenario
        for scenario in SCENARIOS
        if scenario.nodes <= len(cluster.nodes) and (cluster.kind or not scenario.own_cluster)
    ]
    end = time.monotonic() + option.minutes * 60
    while time.monotonic() < end:
        play(choose.choice(possible), seed=choose.randrange(10**6))
    ground.wait_steady()
