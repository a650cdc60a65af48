"""What identifies a Kite account to the broker; kept out of logs by construction."""

import msgspec


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What the TOTP flow needs of an account; never printed."""

    account: str
    api_key: str
    api_secret: str
    user_id: str
    password: str
    totp_secret: str

    def __repr__(self) -> str:
        return f"Credentials(account={self.account!r}, …)"
