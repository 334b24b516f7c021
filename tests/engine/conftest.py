"""What the tests of the native kernels share."""

import pytest

from asqcli.engine import native


@pytest.fixture(scope="module")
def small_networks_are_worth_a_team():
    """Let several threads share the work on networks of the size that tests have, too."""
    before, native.WORTH_A_TEAM = native.WORTH_A_TEAM, 0
    yield
    native.WORTH_A_TEAM = before
