"""The broker accounts the simulator knows, and the second factor that guards them."""

import base64
import hashlib
from typing import Final

import msgspec
import pyotp

_TOTP_STEPS_OF_TOLERANCE: Final = 1


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One user with one Kite Connect app.

    Attributes:
        api_key: Key of the app.
        api_secret: Its secret; part of the checksum of `POST /session/token`.
        user_id: Who logs in.
        password: With what.
        totp_secret: Base32 secret of the 30-second, 6-digit second factor (RFC 6238).
    """

    api_key: str
    api_secret: str
    user_id: str
    password: str
    totp_secret: str

    def accepts_totp(self, value: str, at_seconds: float) -> bool:
        """Say whether a 6-digit code is right.

        Args:
            value: What the client sent.
            at_seconds: Epoch seconds of *real* time: authenticators know no virtual clock.
        """
        otp = pyotp.TOTP(self.totp_secret)
        return value.isascii() and otp.verify(
            value,
            for_time=at_seconds,
            valid_window=_TOTP_STEPS_OF_TOLERANCE,
        )


def demo_accounts(count: int, seed: int) -> list[Account]:
    """Give the accounts of a demo: the same ones for the same seed, in every process.

    Account number i (from 1) is `sim<i>`: api_key `sim<i>key`, user_id `SIM<iii>`; secret,
    password and TOTP secret are cut from SHA-256 of `"tickfleet:<seed>:sim<i>:<field>"`.

    Args:
        count: How many accounts, >= 0.
        seed: Seed of the market and of the accounts.
    """

    def digest(number: int, field: str) -> bytes:
        return hashlib.sha256(f"tickfleet:{seed}:sim{number}:{field}".encode()).digest()

    return [
        Account(
            api_key=f"sim{number}key",
            api_secret=digest(number, "api_secret").hex()[:32],
            user_id=f"SIM{number:03d}",
            password=digest(number, "password").hex()[:16],
            totp_secret=base64.b32encode(digest(number, "totp_secret")[:20]).decode(),
        )
        for number in range(1, count + 1)
    ]
