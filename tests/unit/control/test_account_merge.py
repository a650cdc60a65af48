"""Sources of accounts: which description wins, what is missing where, and that no secret shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import AccountSource
from services.control.domain import accounts
from services.control.domain.accounts import Account, Found, Problem

FULL = {
    "api_key": "value-of-api_key",
    "api_secret": "value-of-api_secret",
    "user_id": "AB1234",
    "password": "value-of-password",
    "totp_secret": "JBSWY3DPEHPK3PXP",
}


def account(name, source):
    return Account(name=name, source=source, place=f"place-{source.value}", api_key="k")


def test_earlier_source_wins_and_a_warning_names_both():
    first = account("main", AccountSource.FILE)
    second = account("main", AccountSource.ENVIRONMENT)
    merged = accounts.merge([Found(accounts=(first,)), Found(accounts=(second,))])
    assert merged.accounts == {"main": first}
    (problem,) = merged.problems
    assert "place-file" in problem.message
    assert "place-environment" in problem.message
    assert problem.account is None


def test_badly_described_account_is_taken_from_a_later_source():
    bad = Problem(source=AccountSource.FILE, message="typo", account="main")
    good = account("main", AccountSource.ENVIRONMENT)
    merged = accounts.merge([Found(problems=(bad,)), Found(accounts=(good,))])
    assert merged.accounts == {"main": good}
    assert merged.incomplete == {}
    assert merged.problems == (bad,)
    assert accounts.merge([Found(problems=(bad,))]).incomplete == {"main": bad}


@given(
    st.lists(
        st.lists(st.sampled_from("abcd"), unique=True),
        min_size=len(AccountSource),
        max_size=len(AccountSource),
    )
)
def test_every_account_comes_from_the_first_source_that_has_it(names):
    sources = [
        Found(accounts=tuple(account(name, source) for name in found))
        for source, found in zip(AccountSource, names, strict=True)
    ]
    merged = accounts.merge(sources)
    assert set(merged.accounts) == {name for found in names for name in found}
    for name, chosen in merged.accounts.items():
        first = next(s for s, found in zip(AccountSource, names, strict=True) if name in found)
        assert chosen.source is first
    repeated = sum(len(found) for found in names) - len(merged.accounts)
    assert len(merged.problems) == repeated


@pytest.mark.parametrize("field", ["api_key", "api_secret", "user_id", "password"])
def test_field_that_a_login_needs_is_named_when_it_is_missing(field):
    assert list(accounts.shortcomings({**FULL, field: ""})) == [field]


def test_account_needs_no_totp_secret_and_then_no_password():
    assert accounts.shortcomings({"api_key": "k", "api_secret": "s"}) == {}
    assert accounts.shortcomings({"api_key": "k", "access_token": "t"}) == {}
    made = accounts.describe("m", AccountSource.FILE, "f", {"api_key": "k", "api_secret": "s"})
    assert made.credentials() is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("connections", "0"),
        ("connections", "4"),
        ("connections", "two"),
        ("connections", "-1"),
        ("tokens_per_connection", "3001"),
        ("tokens_per_connection", "1e3"),
        ("tokens_per_connection", "٣"),
        ("totp_secret", "0189"),
        ("totp_secret", "===="),
    ],
)
def test_value_out_of_its_range_is_named_with_the_range(field, value):
    wrong = accounts.shortcomings({**FULL, field: value})
    assert list(wrong) == [field]
    assert value not in wrong[field]


def test_capacity_comes_from_the_variables_of_the_account():
    environment = {accounts.variable("my-acc", field): value for field, value in FULL.items()}
    environment["KITE_MY_ACC_WS_CONNECTIONS"] = "2"
    environment["KITE_MY_ACC_MAX_INSTRUMENTS_PER_WS_CONNECTION"] = "1500"
    (found,) = accounts.from_environment("my-acc", environment).accounts
    assert (found.connections, found.tokens_per_connection) == (2, 1500)
    environment["KITE_MY_ACC_WS_CONNECTIONS"] = "9"
    (problem,) = accounts.from_environment("my-acc", environment).problems
    assert "KITE_MY_ACC_WS_CONNECTIONS" in problem.message


def test_single_account_is_called_default_and_may_have_a_token_only():
    assert accounts.single({}) == Found()
    (found,) = accounts.single({"KITE_API_KEY": "k", "KITE_ACCESS_TOKEN": "t"}).accounts
    assert (found.name, found.access_token) == ("default", "t")
    (problem,) = accounts.single({"KITE_API_KEY": "k"}).problems
    assert "KITE_API_SECRET" in problem.message


def test_two_names_with_the_same_variables_are_not_one_account():
    environment = {accounts.variable("a-b", field): value for field, value in FULL.items()}
    found = accounts.from_environment("a-b,a_b", environment)
    assert [a.name for a in found.accounts] == ["a-b"]
    assert "same variables" in found.problems[0].message


@given(st.text(max_size=12), st.dictionaries(st.sampled_from(list(FULL)), st.text(max_size=12)))
def test_any_environment_is_answered_with_accounts_or_sentences(names, fields):
    environment = {accounts.variable("m", field): value for field, value in fields.items()}
    found = accounts.from_environment(f"m,{names}", environment)
    for good in found.accounts:
        assert accounts.NAME.fullmatch(good.name)


def test_nothing_printed_of_an_account_holds_a_secret():
    made = accounts.describe("main", AccountSource.FILE, "a.yaml:3:5", FULL)
    credentials = made.credentials()
    text = f"{made} {made!r} {made.app!r} {credentials!r}"
    for field in ("api_key", "api_secret", "password", "totp_secret"):
        assert FULL[field] not in text
    scrubbed = made.scrub(f"Kite says {FULL['password']} of {FULL['api_key']} is wrong")
    assert scrubbed == "Kite says [REDACTED] of [REDACTED] is wrong"


@pytest.mark.parametrize(
    ("user_id", "shown"),
    [("AB1234", "AB****"), ("AB", "**"), ("", None), (None, None), ("ABC", "AB*")],
)
def test_user_id_is_masked(user_id, shown):
    assert accounts.masked(user_id) == shown


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (AccountSource.ENVIRONMENT, "KITE_MAIN_*"),
        (AccountSource.FILE, "KITE_ACCOUNTS_FILE"),
        (AccountSource.USER_SERVICE, "user service"),
        (AccountSource.SINGLE, "KITE_MAIN_*"),
    ],
)
def test_sentence_says_where_an_account_can_be_changed(source, hint):
    assert hint in accounts.where_to_change("main", source, "KITE_MAIN_*")
