"""Development tokens: what stands in them, and what is refused."""

import jwt
import pytest

from services.fleet.tokens import TokenKey, development_token, new_jwt_secret

KEY = TokenKey(secret=new_jwt_secret(), issuer="tickfleet", audience="tickfleet-ws")
NOW = 1_800_000_000


def claims(token: str) -> dict[str, object]:
    return jwt.decode(
        token,
        KEY.secret,
        algorithms=["HS256"],
        audience="tickfleet-ws",
        issuer="tickfleet",
        options={"verify_exp": False, "verify_iat": False},
    )


def test_token_names_the_user_and_its_end():
    token = development_token(KEY, user="asha", now_seconds=NOW, hours=1.5)

    assert claims(token) == {
        "sub": "asha",
        "user_id": "asha",
        "name": "asha",
        "iat": NOW,
        "exp": NOW + 5400,
        "iss": "tickfleet",
        "aud": "tickfleet-ws",
        "orders": "*",
    }


def test_token_carries_an_email_only_when_given():
    token = development_token(KEY, user="asha", now_seconds=NOW, hours=1, email="a@example.com")

    assert claims(token)["email"] == "a@example.com"


@pytest.mark.parametrize(("user", "hours"), [(" ", 1.0), ("asha", 0.0), ("asha", -1.0)])
def test_token_for_nobody_or_no_time_is_refused(user, hours):
    with pytest.raises(ValueError, match=r"--(user|hours)"):
        development_token(KEY, user=user, now_seconds=NOW, hours=hours)


def test_generated_keys_differ_and_are_long_enough_for_hs256():
    assert new_jwt_secret() != new_jwt_secret()
    assert len(new_jwt_secret()) >= 32


def test_key_does_not_show_when_printed():
    assert KEY.secret not in repr(KEY)
