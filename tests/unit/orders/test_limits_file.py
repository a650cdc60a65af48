"""The file of limits: what it says holds for whom it names, and its mistakes are named."""

from pathlib import Path

import pytest

from libs.common.contracts.orders import Exchange, Product
from libs.common.settings import SettingsError
from services.orders.domain.order_limits import NO_LIMITS, OrderLimits
from services.orders.limits_file import read_limits

SHIPPED = Path(__file__).parents[3] / "deploy" / "order_limits.toml"


def written(tmp_path, text: str) -> str:
    """The path of a file with this text."""
    file = tmp_path / "limits.toml"
    file.write_text(text)
    return str(file)


def test_without_a_file_nobody_has_limits():
    table = read_limits("")
    assert table.of_account("AB1234") == table.of_user("desk") == NO_LIMITS


def test_named_tables_build_on_the_default_of_their_section_wherever_it_stands(tmp_path):
    path = written(
        tmp_path,
        """
        [accounts.AB1234]
        exchanges = ["NFO"]
        products = ["NRML", "MIS"]

        [accounts.default]
        max_value = 5_000_000
        max_orders_per_day = 2000

        [users.desk]
        max_quantity = 1800
        """,
    )
    table = read_limits(path)
    assert table.of_account("AB1234") == OrderLimits(
        max_value=5_000_000,
        max_orders_per_day=2000,
        exchanges=frozenset({Exchange.NFO}),
        products=frozenset({Product.NRML, Product.MIS}),
    )
    assert table.of_account("CD") == OrderLimits(max_value=5_000_000, max_orders_per_day=2000)
    assert table.of_user("desk") == OrderLimits(max_quantity=1800)
    assert table.of_user("other") == NO_LIMITS


def test_zero_is_a_limit_and_not_the_lack_of_one(tmp_path):
    table = read_limits(written(tmp_path, "[users.default]\nmax_open_orders = 0"))
    assert table.of_user("desk").max_open_orders == 0


def test_every_mistake_is_named_at_once(tmp_path):
    path = written(
        tmp_path,
        """
        [account.AB1234]
        max_value = 1
        [accounts.CD]
        max_vale = 1
        [accounts.EF]
        max_quantity = -1
        [users.desk]
        exchanges = ["NSDL"]
        """,
    )
    with pytest.raises(SettingsError) as failed:
        read_limits(path)
    text = str(failed.value)
    for part in ("[account]", "[accounts.CD]", "max_vale", "[accounts.EF]", "[users.desk]"):
        assert part in text
    assert "ORDERS_LIMITS_FILE" in text


@pytest.mark.parametrize("text", ["accounts = 1", "[accounts", "[accounts]\ndefault = 3"])
def test_file_that_is_no_table_of_names_is_refused(tmp_path, text):
    with pytest.raises(SettingsError, match="ORDERS_LIMITS_FILE"):
        read_limits(written(tmp_path, text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        read_limits(str(tmp_path / "nowhere.toml"))


def test_file_that_is_shipped_can_be_read():
    table = read_limits(str(SHIPPED))
    assert table.default_account.max_value == 10_000_000
    assert table.default_user.max_value == 5_000_000
