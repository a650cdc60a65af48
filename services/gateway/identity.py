"""Checks and, for development, makes the JSON Web Tokens by which WebSocket clients are known."""

import time
from typing import Any

import jwt
import msgspec

from libs.common.contracts.websocket import ALL_ACCOUNTS, ErrorCode, User
from services.gateway.errors import InvalidTokenError
from services.gateway.settings import GatewaySettings

ALGORITHM = "HS256"
DEV_TOKEN_SECONDS = 12 * 3600
_TOKEN_LENGTH_MAX = 8192


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a client is, and until when that is proven.

    Attributes:
        user: As the greeting shows it.
        expires_at: Unix epoch, seconds.
        orders: Accounts whose orders the client may watch; `*` stands for all of them.
    """

    user: User
    expires_at: int
    orders: frozenset[str] = frozenset()

    def may_watch(self, account: str) -> bool:
        """Whether the client may be told of an account's orders."""
        return ALL_ACCOUNTS in self.orders or account in self.orders


class TokenVerifier:
    """Verifies HS256 tokens with one secret; the algorithm is never taken from the token."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._secret = settings.jwt_secret.get_secret_value()
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._leeway_seconds = settings.jwt_leeway_seconds

    def verify(self, token: str) -> Identity:
        """Say who a token names.

        Raises:
            InvalidTokenError: `token_expired`, or `invalid_token` with what is wrong about it.
        """
        if len(token) > _TOKEN_LENGTH_MAX:
            raise InvalidTokenError(ErrorCode.INVALID_TOKEN, "the token is too long")
        required = ["exp"]
        if self._issuer:
            required.append("iss")
        if self._audience:
            required.append("aud")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_seconds,
                options={"require": required, "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError as error:
            raise InvalidTokenError(
                ErrorCode.TOKEN_EXPIRED, "the token has expired; get a new one"
            ) from error
        except jwt.InvalidTokenError as error:
            raise InvalidTokenError(
                ErrorCode.INVALID_TOKEN, f"the token is not valid: {error}"
            ) from error
        user_id = claims.get("user_id") or claims.get("sub")
        if not user_id:
            raise InvalidTokenError(
                ErrorCode.INVALID_TOKEN, 'the token names nobody: it needs "sub" or "user_id"'
            )
        return Identity(
            user=User(
                user_id=str(user_id), email=_text(claims, "email"), name=_text(claims, "name")
            ),
            expires_at=int(claims["exp"]),
            orders=_accounts(claims.get("orders")),
        )


def dev_token(settings: GatewaySettings) -> tuple[str, int]:
    """Make a token for a developer's own machine; gives it and when it expires."""
    now = int(time.time())
    claims = {
        "sub": "dev",
        "name": "Developer",
        "iat": now,
        "exp": now + DEV_TOKEN_SECONDS,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "orders": ALL_ACCOUNTS,
    }
    token = jwt.encode(
        {key: value for key, value in claims.items() if value != ""},
        settings.jwt_secret.get_secret_value(),
        algorithm=ALGORITHM,
    )
    return token, now + DEV_TOKEN_SECONDS


def _accounts(claim: object) -> frozenset[str]:
    """Read the claim: a list of names, or `*`; anything else opens nothing."""
    if claim == ALL_ACCOUNTS:
        return frozenset({ALL_ACCOUNTS})
    if isinstance(claim, list):
        return frozenset(name for name in claim if isinstance(name, str))
    return frozenset()


def _text(claims: dict[str, Any], key: str) -> str | None:
    value = claims.get(key)
    return value if isinstance(value, str) else None
