"""Only a token that our key signed, for us, in time, names anybody."""

import time
from typing import Any

import jwt
import pytest

from services.gateway.errors import InvalidTokenError
from services.gateway.identity import TokenVerifier, dev_token
from services.gateway.settings import GatewaySettings

SECRET = "a-secret-of-more-than-thirty-two-characters"


def settings(**changes: Any) -> GatewaySettings:
    values: dict[str, Any] = {"jwt_secret": SECRET, "api_key_enabled": False}
    return GatewaySettings(**{**values, **changes})


def token(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims: dict[str, Any] = {
        "sub": "u1",
        # Parametrised tokens are made when tests are collected, long before some of them run.
        "exp": int(time.time()) + 86_400,
        "iss": "tickfleet",
        "aud": "tickfleet-ws",
    }
    claims = {k: v for k, v in {**claims, **changes}.items() if v is not None}
    return jwt.encode(claims, secret, algorithm)


def test_good_token_names_the_user_and_the_end():
    expires = int(time.time()) + 60
    identity = TokenVerifier(settings()).verify(
        token(exp=expires, name="Tess", email="t@example.org")
    )
    assert identity.user.user_id == "u1"
    assert identity.user.name == "Tess"
    assert identity.user.email == "t@example.org"
    assert identity.expires_at == expires


def test_user_id_wins_over_sub():
    assert TokenVerifier(settings()).verify(token(user_id=77)).user.user_id == "77"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (token(exp=int(time.time()) - 1), "token_expired"),
        (token(exp=None), "invalid_token"),
        (token(iss=None), "invalid_token"),
        (token(iss="somebody"), "invalid_token"),
        (token(aud=None), "invalid_token"),
        (token(aud="other"), "invalid_token"),
        (token(sub=None), "invalid_token"),
        (token("another-secret-of-more-than-thirty-two-chars"), "invalid_token"),
        (jwt.encode({"sub": "u1", "exp": 9_999_999_999}, "", "none"), "invalid_token"),
        (jwt.encode({"sub": "u1", "exp": 9_999_999_999}, "x" * 64, "HS512"), "invalid_token"),
        ("", "invalid_token"),
        ("garbage", "invalid_token"),
        ("a.b.c", "invalid_token"),
        ("x" * 100_000, "invalid_token"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(bad, code):
    with pytest.raises(InvalidTokenError) as caught:
        TokenVerifier(settings()).verify(bad)
    assert caught.value.code == code
    assert caught.value.close_code == 4401
    assert not bad or bad not in caught.value.message


def test_issuer_and_audience_need_no_match_when_not_set():
    verifier = TokenVerifier(settings(jwt_issuer="", jwt_audience=""))
    assert verifier.verify(token(iss=None, aud=None)).user.user_id == "u1"
    assert verifier.verify(token(iss="any", aud="any")).user.user_id == "u1"


def test_token_for_development_is_accepted():
    made, expires_at = dev_token(settings())
    identity = TokenVerifier(settings()).verify(made)
    assert (identity.user.user_id, identity.expires_at) == ("dev", expires_at)
    assert identity.may_watch("any")


@pytest.mark.parametrize(
    ("claim", "opened", "closed"),
    [
        (None, (), ("main", "*")),
        ("*", ("main", "*"), ()),
        (["main"], ("main",), ("hedge", "*")),
        (["*"], ("main", "*"), ()),
        ([], (), ("main",)),
        ("main", (), ("main", "m", "*")),
        ([7, None, "main"], ("main",), ("7",)),
        ({"main": True}, (), ("main",)),
        (True, (), ("main",)),
    ],
)
def test_claim_orders_opens_what_it_lists_and_nothing_else(claim, opened, closed):
    identity = TokenVerifier(settings()).verify(token(orders=claim))
    assert all(identity.may_watch(account) for account in opened)
    assert not any(identity.may_watch(account) for account in closed)
