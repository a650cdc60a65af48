"""Accounts from the environment: good ones are taken, bad ones are named and left out."""

from services.control.domain import accounts

GOOD = {
    accounts.variable("main", field): f"value-of-{field}"
    for field in ("api_key", "api_secret", "user_id", "password")
} | {"KITE_MAIN_TOTP_SECRET": "JBSWY3DPEHPK3PXP"}


def test_complete_account_is_taken():
    found = accounts.from_environment("main", GOOD)
    assert [c.name for c in found.accounts] == ["main"]
    assert found.problems == ()


def test_account_without_a_secret_is_skipped_and_names_the_variable():
    incomplete = {k: v for k, v in GOOD.items() if k != "KITE_MAIN_PASSWORD"}
    incomplete |= {k.replace("_MAIN_", "_OTHER_"): v for k, v in GOOD.items()}
    found = accounts.from_environment("main, other", incomplete)
    assert [c.name for c in found.accounts] == ["other"]
    (problem,) = found.problems
    assert problem.account == "main"
    assert problem.message.startswith("account main is skipped: set KITE_MAIN_PASSWORD")


def test_odd_and_repeated_names_are_refused():
    found = accounts.from_environment("main,main,ma in,", GOOD)
    assert len(found.accounts) == 1
    assert len(found.problems) == 2


def test_credentials_do_not_print_their_secrets():
    (credentials,) = accounts.from_environment("main", GOOD).accounts
    assert "value-of" not in repr(credentials)
    assert "JBSWY3DPEHPK3PXP" not in repr(credentials)
