"""Kite sessions at rest: encrypted on the bus, readable only with ACCOUNT_ENCRYPTION_KEY."""

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from libs.common.contracts import codec
from libs.common.contracts.messages import KiteSession
from libs.common.errors import RejectedError


class SessionSealError(RejectedError):
    """A stored session cannot be read: another key sealed it, or it is damaged."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a stored Kite session cannot be read: {reason}")
        self.reason = reason


class SessionSeal:
    """Seals and opens sessions under one key.

    Args:
        key: The Fernet key of ACCOUNT_ENCRYPTION_KEY.

    Raises:
        SessionSealError: If the key is not a Fernet key.
    """

    def __init__(self, key: SecretStr) -> None:
        try:
            self._fernet = Fernet(key.get_secret_value())
        except ValueError as error:
            raise SessionSealError("ACCOUNT_ENCRYPTION_KEY is not a Fernet key") from error

    def seal(self, session: KiteSession) -> bytes:
        """Encrypt a session."""
        return self._fernet.encrypt(codec.to_json(session))

    def open(self, sealed: bytes) -> KiteSession:
        """Decrypt a session.

        Raises:
            SessionSealError: If it was sealed under another key or is damaged.
        """
        try:
            return codec.from_json(KiteSession, self._fernet.decrypt(sealed))
        except InvalidToken as error:
            raise SessionSealError("sealed under another ACCOUNT_ENCRYPTION_KEY") from error
        except codec.DecodeError as error:
            raise SessionSealError(error.reason) from error
