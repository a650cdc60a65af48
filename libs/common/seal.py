"""Secrets at rest: sealed under the newest of several keys, readable under each of them."""

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from libs.common.errors import RejectedError
from libs.common.settings import split_keys


class SealError(RejectedError):
    """Something sealed cannot be opened: another key sealed it, or it is damaged."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a sealed value cannot be opened: {reason}")
        self.reason = reason


class Seal:
    """Seals and opens bytes, and makes fingerprints that tell nothing of what they were made of.

    Args:
        keys: The Fernet keys of ACCOUNT_ENCRYPTION_KEY, separated by commas, newest first: the
            first one seals, all of them open.

    Raises:
        SealError: If one is not a Fernet key.
    """

    def __init__(self, keys: SecretStr) -> None:
        texts = split_keys(keys)
        try:
            fernets = [Fernet(text) for text in texts]
        except ValueError as error:
            raise SealError("ACCOUNT_ENCRYPTION_KEY holds no Fernet key") from error
        if not fernets:
            raise SealError("ACCOUNT_ENCRYPTION_KEY is empty")
        self._newest = fernets[0]
        self._all = MultiFernet(fernets)
        self._hash_keys = [
            hashlib.sha256(b"fingerprint:" + text.encode()).digest() for text in texts
        ]

    def __repr__(self) -> str:
        return "Seal(…)"

    def seal(self, content: bytes) -> bytes:
        """Encrypt under the newest key."""
        return self._newest.encrypt(content)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt what was sealed under any of the keys.

        Raises:
            SealError: None of them fits, or the bytes are damaged.
        """
        try:
            return self._all.decrypt(sealed)
        except InvalidToken as error:
            raise SealError("sealed under another ACCOUNT_ENCRYPTION_KEY, or damaged") from error

    def is_current(self, sealed: bytes) -> bool:
        """Whether the newest key sealed it; if not, it should be sealed again."""
        try:
            self._newest.decrypt(sealed)
        except InvalidToken:
            return False
        return True

    def fingerprint(self, parts: Sequence[str | None]) -> str:
        """A keyed hash of some secrets, under the newest key: equal for equal secrets only."""
        return _fingerprint(self._hash_keys[0], parts)

    def matches(self, fingerprint: str, parts: Sequence[str | None]) -> bool:
        """Whether a fingerprint, made under any of the keys, is that of these secrets."""
        return any(
            hmac.compare_digest(fingerprint.encode(), _fingerprint(key, parts).encode())
            for key in self._hash_keys
        )


def _fingerprint(key: bytes, parts: Sequence[str | None]) -> str:
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        # Length first: ("ab", "c") and ("a", "bc") differ, and so do "" and None.
        content = b"" if part is None else part.encode()
        digest.update(b"-" if part is None else str(len(content)).encode() + b":")
        digest.update(content)
    return digest.hexdigest()[:32]
