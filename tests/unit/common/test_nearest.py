"""What a refusal names instead of what was asked for."""

from datetime import date

from libs.common.domain.nearest import like, missing

HELD = [
    ("NIFTY", date(2026, 12, 1)),
    ("NIFTY", date(2026, 12, 29)),
    ("BANKNIFTY", date(2026, 12, 29)),
    ("M&M", date(2026, 12, 29)),
]


def test_a_known_underlying_is_answered_with_its_nearest_expiry():
    assert missing("chain", "NIFTY", date(2026, 12, 8), HELD) == (
        "there is no chain of NIFTY for 2026-12-08; the nearest is 2026-12-01"
    )
    assert missing("chain", "NIFTY", date(2027, 6, 1), HELD).endswith("2026-12-29")


def test_of_two_expiries_as_near_the_earlier_is_named():
    assert missing("chain", "NIFTY", date(2026, 12, 15), HELD).endswith("2026-12-01")


def test_an_unknown_underlying_is_answered_with_names_like_it():
    assert missing("forward", "nifty", None, HELD) == (
        "there is no forward of nifty; there is one of NIFTY, BANKNIFTY"
    )
    assert like("MM", {"M&M", "NIFTY"}) == ["M&M"]


def test_a_name_like_no_other_is_answered_with_some_that_exist():
    assert like("ZZZZ", {"B", "C", "A", "D"}) == ["A", "B", "C"]


def test_nothing_is_named_where_nothing_exists():
    assert missing("chain", "NIFTY", date(2026, 12, 8), []) == "there is no chain of NIFTY"
