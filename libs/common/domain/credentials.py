"""What identifies a Kite account to the broker; kept out of logs by construction."""

import msgspec


class App(msgspec.Struct, frozen=True, kw_only=True):
    """An account's Kite Connect app; never printed.

    Attributes:
        account: Whose.
        api_key: Names the app.
        api_secret: Signs the exchange of a request token; None when only access tokens are used.
    """

    account: str
    api_key: str
    api_secret: str | None = None

    def __repr__(self) -> str:
        return f"App(account={self.account!r}, …)"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What the TOTP flow needs of an account; never printed."""

    account: str
    api_key: str
    api_secret: str
    user_id: str
    password: str
    totp_secret: str

    @property
    def app(self) -> App:
        """The app among them."""
        return App(account=self.account, api_key=self.api_key, api_secret=self.api_secret)

    def __repr__(self) -> str:
        return f"Credentials(account={self.account!r}, …)"
