"""A login that answers what a test wants; it passes the real one's tests."""

import itertools
from collections.abc import Callable

from libs.common.domain.credentials import Credentials
from libs.common.kite.errors import KiteUnavailableError, LoginRefusedError
from libs.common.kite.login import Minted


class FakeMinter:
    """Mints for the credentials it knows.

    Args:
        known: Right credentials.
        before: Called before each login; may raise what the login should end with.

    Attributes:
        asked: The credentials of every login, in order.
        is_away: Whether every login ends without an answer.
    """

    def __init__(
        self, *known: Credentials, before: Callable[[Credentials], None] | None = None
    ) -> None:
        self.asked: list[Credentials] = []
        self.is_away = False
        self._known = {credentials.user_id: credentials for credentials in known}
        self._before = before
        self._numbers = itertools.count(1)

    async def mint(self, credentials: Credentials) -> Minted:
        """See `SessionMinter.mint`."""
        self.asked.append(credentials)
        if self._before is not None:
            self._before(credentials)
        if self.is_away:
            raise KiteUnavailableError(call="login", reason="away")
        right = self._known.get(credentials.user_id)
        if right is None or right.password != credentials.password:
            raise self._refusal(credentials, "password", "Invalid username or password.")
        if right.totp_secret != credentials.totp_secret:
            raise self._refusal(credentials, "totp", "Invalid TOTP.")
        if right.api_key != credentials.api_key or right.api_secret != credentials.api_secret:
            raise self._refusal(credentials, "session", "Invalid api_key or checksum.")
        return Minted(access_token=f"token{next(self._numbers):027d}", user_id=right.user_id)

    @staticmethod
    def _refusal(credentials: Credentials, step: str, reason: str) -> LoginRefusedError:
        return LoginRefusedError(account=credentials.account, step=step, reason=reason)
