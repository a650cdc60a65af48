"""docs/greeks.md says what the engine, the contracts and the settings say."""

import re
from pathlib import Path

import pytest

from libs.common.contracts.messages import Convention, IvStatus, PricingModel, Tick, YearClock
from services.greeks.convention_file import read_conventions
from services.greeks.settings import GreeksSettings
from tests.golden import greeks_page

ROOT = Path(__file__).parents[2]
TEXT = greeks_page.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", greeks_page.BLOCKS)
def test_numbers_of_the_page_are_those_of_the_engine(name):
    found = {block[1]: block[2] for block in greeks_page.BLOCK.finditer(TEXT)}
    # After a change that is meant: python -m tests.golden.greeks_page
    assert found[name] == greeks_page.BLOCKS[name]()


def test_every_block_of_the_page_is_computed():
    names = [block[1] for block in greeks_page.BLOCK.finditer(TEXT)]
    assert sorted(names) == sorted(greeks_page.BLOCKS)
    assert TEXT.count("<!-- computed:") == len(names)


def test_every_status_has_a_row_and_no_other():
    rows = re.findall(
        r"^\| `(\w+)` \|", TEXT.split("## Statuses")[1].split("\n## ")[0], re.MULTILINE
    )
    assert sorted(rows) == sorted(IvStatus)


def test_the_example_of_a_conventions_file_is_one(tmp_path):
    file = tmp_path / "conventions.toml"
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    file.write_text(example)
    assert read_conventions(str(file), Convention()) == {
        "NIFTY": Convention(rate=0.065, clock=YearClock.TRADING252),
        "M&M": Convention(model=PricingModel.BSM, dividend_yield=0.012, smile_max_age_seconds=300),
    }
    assert f"`{Convention(rate=0.065, clock=YearClock.TRADING252).name}`" in TEXT


def test_fields_and_settings_that_the_page_names_exist():
    fields = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", TEXT))
    known = {*Tick.__struct_fields__, *Convention.__struct_fields__, *IvStatus}
    assert fields <= known
    settings = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", TEXT))
    assert {name.lower() for name in settings} <= GreeksSettings.model_fields.keys()


@pytest.mark.parametrize("source", ["README.md", "services/greeks/README.md"])
def test_the_page_is_linked(source):
    text = (ROOT / source).read_text(encoding="utf-8")
    (target,) = set(re.findall(r"\]\(([^)]*greeks\.md)\)", text))
    assert ((ROOT / source).parent / target).resolve() == greeks_page.PAGE


def test_files_that_the_page_names_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (greeks_page.PAGE.parent / target).exists(), target
    for path in re.findall(r"`(tests/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path
