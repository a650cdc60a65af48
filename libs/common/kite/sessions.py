"""Kite sessions at rest: encrypted on the bus, readable only with ACCOUNT_ENCRYPTION_KEY."""

from pydantic import SecretStr

from libs.common.contracts import codec
from libs.common.contracts.messages import KiteSession
from libs.common.errors import RejectedError
from libs.common.seal import Seal, SealError


class SessionSealError(RejectedError):
    """A stored session cannot be read: another key sealed it, or it is damaged."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a stored Kite session cannot be read: {reason}")
        self.reason = reason


class SessionSeal:
    """Seals sessions under the newest key and opens those of older keys too.

    Args:
        keys: The Fernet keys of ACCOUNT_ENCRYPTION_KEY, newest first.

    Raises:
        SessionSealError: If one is not a Fernet key.
    """

    def __init__(self, keys: SecretStr) -> None:
        try:
            self._seal = Seal(keys)
        except SealError as error:
            raise SessionSealError(error.reason) from error

    def seal(self, session: KiteSession) -> bytes:
        """Encrypt a session."""
        return self._seal.seal(codec.to_json(session))

    def open(self, sealed: bytes) -> KiteSession:
        """Decrypt a session.

        Raises:
            SessionSealError: If it was sealed under another key or is damaged.
        """
        try:
            return codec.from_json(KiteSession, self._seal.open(sealed))
        except SealError as error:
            raise SessionSealError(error.reason) from error
        except codec.DecodeError as error:
            raise SessionSealError(error.reason) from error

    def is_current(self, sealed: bytes) -> bool:
        """Whether the newest key sealed it; if not, it should be sealed again."""
        return self._seal.is_current(sealed)
