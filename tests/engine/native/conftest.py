"""What the tests of the native kernels share."""

import pytest

from asqcli.engine.native import network


@pytest.fixture(scope="module")
def small_networks_are_worth_a_team():
    """Let several threads share the work on networks of the size that tests have, too."""
    before, network.WORTH_A_TEAM = network.WORTH_A_TEAM, 0
    yield
    network.WORTH_A_TEAM = before
