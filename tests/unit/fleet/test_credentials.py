"""The made-up accounts: the same for the same seed, and shaped like Kite's."""

import base64

import pytest

from services.fleet.domain.credentials import demo_accounts


def test_accounts_of_a_seed_never_change():
    first = demo_accounts(1, 1)[0]

    assert first.credentials() == {
        "api_key": "dt4ervcsv5occshm",
        "api_secret": "3ki4j36ghcblpicu47ad4yos4tatcta7",
        "user_id": "SM0001",
        "password": "dc3vkar4j267",
        "totp_secret": "LBWYHE7KGFRZE6KO2UW7R2XDWYG23JOV",
    }


def test_more_accounts_leave_the_first_ones_as_they_are():
    assert demo_accounts(5, 3)[:2] == demo_accounts(2, 3)


def test_seeds_and_accounts_share_no_secret():
    accounts = [*demo_accounts(20, 1), *demo_accounts(20, 2)]

    for field in ("api_key", "api_secret", "password", "totp_secret"):
        assert len({getattr(account, field) for account in accounts}) == len(accounts)


def test_credentials_are_shaped_like_those_of_kite():
    account = demo_accounts(1, 9)[0]

    assert len(account.api_key) == 16
    assert len(account.api_secret) == 32
    assert account.api_key.isalnum()
    assert len(base64.b32decode(account.totp_secret)) == 20


@pytest.mark.parametrize("count", [0, 100])
def test_impossible_number_of_accounts_is_refused(count):
    with pytest.raises(ValueError, match="1 to 99"):
        demo_accounts(count, 1)
