"""Orders through a broker with faults and a fleet whose processes die: none lost, none doubled."""

from collections.abc import Iterable

import pytest

from tests.chaos.lab import LabShape
from tests.chaos.run import ChaosPlan, Outcome, run_chaos

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]

# The long form is `make chaos`.
SHORT = ChaosPlan(
    orders=150,
    seed=5,
    per_second=4.0,
    fault_probability=0.2,
    late_seconds=1.5,
    window_seconds=6.0,
    shortest_kill_seconds=0.6,
    longest_kill_seconds=2.5,
    settle_seconds=180.0,
)
UNSAFE = ChaosPlan(
    orders=120,
    shape=LabShape(accounts=2, workers=1),
    seed=5,
    per_second=8.0,
    fault_probability=0.4,
    late_seconds=1.5,
    window_seconds=6.0,
    # Nobody is struck: the broker's faults are enough.
    shortest_kill_seconds=3_600.0,
    longest_kill_seconds=3_600.0,
    settle_seconds=60.0,
    is_unsafe=True,
)


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


def story(outcome: Outcome, log: Iterable[str]) -> str:
    """What a reader of a failure needs."""
    return "\n".join([str(outcome.as_json()), *log])


async def test_no_order_is_lost_or_doubled_while_everything_fails_and_dies(tmp_path):
    outcome = await run_chaos(tmp_path, SHORT)

    print(outcome.as_json())
    assert outcome.tally.asked == SHORT.orders
    assert outcome.tally.accepted == SHORT.orders
    assert outcome.tally.at_broker > 0
    assert sum(outcome.faults.values()) > 0
    assert sum(outcome.kills.values()) > 0
    assert outcome.is_clean, story(outcome, [str(tmp_path / "lab.log")])


async def test_same_run_without_the_safety_rule_finds_doubled_orders(tmp_path):
    outcome = await run_chaos(tmp_path, UNSAFE)

    print(outcome.as_json())
    assert outcome.tally.doubled, story(outcome, [str(tmp_path / "lab.log")])
