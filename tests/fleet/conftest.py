"""One fleet for all tests of this folder: starting one per test would only measure start-up."""

import pytest

from tests.fleet.fleet_process import running_fleet


@pytest.fixture(scope="package")
def fleet(tmp_path_factory):
    """A fleet of two accounts and two Greeks workers that is up."""
    folder = tmp_path_factory.mktemp("fleet") / "data"
    with running_fleet(folder, "--accounts", "2", "--greeks", "2") as started:
        yield started


@pytest.fixture
async def healthy(fleet):
    """The fleet, healthy before the test and after it."""
    await fleet.until_healthy()
    yield fleet
    await fleet.until_healthy()
