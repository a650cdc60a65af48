"""Makes WebSocket tokens for development."""

import secrets
from dataclasses import dataclass, field

import jwt

_SECRET_BYTES = 48


def new_jwt_secret() -> str:
    """Make an HS256 key."""
    return secrets.token_urlsafe(_SECRET_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """What a token is signed with, and for whom.

    Attributes:
        secret: HS256 key.
        issuer: `iss`.
        audience: `aud`.
    """

    secret: str = field(repr=False)
    issuer: str
    audience: str


def development_token(
    key: TokenKey, *, user: str, now_seconds: int, hours: float, email: str | None = None
) -> str:
    """Make a signed token, which opens the orders of every account.

    Args:
        key: What it is signed with.
        user: Becomes `sub`, `user_id` and `name`.
        now_seconds: Epoch time of issue.
        hours: How long it is valid.
        email: Left out when None.

    Raises:
        ValueError: The user is empty, or the hours are not positive.
    """
    if not user.strip():
        raise ValueError("--user: must not be empty")
    if hours <= 0:
        raise ValueError("--hours: must be above 0")
    claims = {
        "sub": user,
        "user_id": user,
        "name": user,
        "iat": now_seconds,
        "exp": now_seconds + int(hours * 3600),
        "iss": key.issuer,
        "aud": key.audience,
        "orders": "*",
    }
    if email:
        claims["email"] = email
    return jwt.encode(claims, key.secret, algorithm="HS256")
