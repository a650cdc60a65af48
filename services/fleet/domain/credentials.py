"""Makes up the Kite accounts of the simulator, as a pure function of the seed."""

import base64
import hashlib
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoAccount:
    """One account that exists only in the simulator.

    Attributes:
        name: What the fleet calls it: `sim1`, `sim2`…
        api_key: 16 characters, as Kite's are.
        api_secret: 32 characters, as Kite's are.
        user_id: Two letters and four digits, as Kite's are.
        password: Of the login form.
        totp_secret: Base32, 160 bits.
        connections: WebSocket connections it may open.
        tokens_per_connection: Instruments on each.
    """

    name: str
    api_key: str
    api_secret: str
    user_id: str
    password: str
    totp_secret: str
    connections: int
    tokens_per_connection: int

    def __repr__(self) -> str:
        """Show the name alone: even made-up secrets do not belong in logs."""
        return f"DemoAccount(name={self.name!r}, …)"

    def credentials(self) -> dict[str, str]:
        """What the broker knows it by."""
        fields = asdict(self)
        for own in ("name", "connections", "tokens_per_connection"):
            del fields[own]
        return fields


# Real accounts differ: a desk has apps with all three connections, and others with less to spare.
_CAPACITIES = ((3, 3000), (2, 1000), (1, 500))


def demo_accounts(count: int, seed: int) -> tuple[DemoAccount, ...]:
    """Give the first `count` accounts of a seed; the same ones on every machine and version.

    Raises:
        ValueError: `count` is not 1 to 99.
    """
    if not 1 <= count <= 99:
        raise ValueError(f"accounts: there can be 1 to 99 demo accounts, not {count}")
    return tuple(_account(number, seed) for number in range(1, count + 1))


def _account(number: int, seed: int) -> DemoAccount:
    def digest(field: str, size: int) -> bytes:
        # A hash and not a random generator: nothing here may depend on the Python version.
        return hashlib.shake_256(f"tickfleet/{seed}/{number}/{field}".encode()).digest(size)

    def letters(field: str, length: int) -> str:
        return base64.b32encode(digest(field, length)).decode("ascii").lower()[:length]

    connections, tokens_per_connection = _CAPACITIES[(number - 1) % len(_CAPACITIES)]
    return DemoAccount(
        name=f"sim{number}",
        api_key=letters("api_key", 16),
        api_secret=letters("api_secret", 32),
        user_id=f"SM{number:04d}",
        password=letters("password", 12),
        totp_secret=base64.b32encode(digest("totp", 20)).decode("ascii"),
        connections=connections,
        tokens_per_connection=tokens_per_connection,
    )
