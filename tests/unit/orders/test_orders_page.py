"""The page about orders says what the code does: its states, its codes, its figures."""

import re
from pathlib import Path

import pytest

from libs.common.contracts.orders import OrderState
from libs.common.domain.order_states import predecessor_state
from services.orders.domain.check_context import CheckRules
from services.orders.domain.lifecycle import DEFAULT_RULES
from services.orders.domain.outcomes import Outcome
from services.orders.domain.send_budget import SendLimits
from services.orders.domain.task_states import PRECEDENCE

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "orders.md").read_text(encoding="utf-8")
DOMAIN = {
    path: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "services" / "orders" / "domain").glob("*.py"))
}
# `OrderRefusedError("code", …)`, `code="…"`, `code = "…"`, and `_refused("field", …)` of a limit.
RAISED = re.compile(r'OrderRefusedError\(\s*"(\w+)"')
NAMED = re.compile(r'\bcode\s*=\s*"(\w+)"')
LIMIT = re.compile(r'_refused\(\s*"(\w+)"|_refuse_count\(\s*"(\w+)"')
SETTLED = re.compile(r'(?:settled|unknown|absent)\(\s*[^()]*?"(\w+)",\s*(?:message|words|\n\s*")')


def section(title: str) -> str:
    """The text under a heading, to the next one of its rank."""
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a section's tables, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def codes_on_page() -> set[str]:
    found = rows(section("Checks before sending")) + rows(section("Other codes"))
    return {code for row in found for code in re.findall(r"`(\w+)`", row[0])}


def codes_in_code() -> set[str]:
    found: set[str] = set()
    for text in DOMAIN.values():
        found.update(RAISED.findall(text), NAMED.findall(text), SETTLED.findall(text))
        found.update(f"limit_{one or other}" for one, other in LIMIT.findall(text))
    return found


def test_every_code_that_is_raised_is_explained():
    assert not codes_in_code() - codes_on_page()


def test_every_code_that_is_explained_exists():
    shell = (ROOT / "services" / "orders").glob("*.py")
    text = "".join([*DOMAIN.values(), *(path.read_text(encoding="utf-8") for path in shell)])
    for code in codes_on_page():
        assert f'"{code}"' in text or f'"{code.removeprefix("limit_")}"' in text, code


def test_every_state_is_explained_with_the_predecessors_word():
    states = section("States").split("\n### ", 1)[0]
    table = {row[0].strip("`"): row[-1].strip("`") for row in rows(states)}
    for state in OrderState:
        assert table[state.value] == predecessor_state(state.value).value


def test_order_in_which_a_tasks_state_is_found_is_that_of_the_page():
    sentence = re.search(r"A \*\*task\*\* has the first(.*?)\. So", PAGE, re.DOTALL)
    assert sentence is not None
    assert re.findall(r"`(\w+)`", sentence[1]) == [state.value for state in PRECEDENCE]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_in_the_table_of_answers(outcome):
    assert f"| `{outcome.value}` |" in section("How a request goes out")


def test_figures_are_those_in_force():
    limits, rules = SendLimits(), CheckRules()
    for figure in (
        f"{limits.per_day} placements",
        f"{limits.per_minute} in any minute",
        f"{limits.modifications_per_order} changes of one order",
        f"live {rules.market_valid_seconds:.0f} s",
        f"within {rules.duplicate_seconds:.0f} s",
        f"least {DEFAULT_RULES.unknown_window_seconds:.0f} s",
    ):
        assert figure in PAGE
    assert (limits.per_second, DEFAULT_RULES.min_looks, DEFAULT_RULES.max_attempts) == (9, 3, 5)
