"""Access tokens that people or programs drop as files, noticed when they change."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import msgspec

FILE_BYTES_MAX = 64 * 1024


class OfferedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that somebody made elsewhere; never printed.

    Attributes:
        access_token: The token.
        origin: Where it lies, for people.
        digest: Tells one offer from another without the token.
        made_at_ns: When its file was written, epoch ns; None for a token in a description.
        api_key: Of the app it belongs to, when the file says so.
    """

    access_token: str
    origin: str
    digest: str
    made_at_ns: int | None = None
    api_key: str | None = None

    def __repr__(self) -> str:
        return f"OfferedToken(origin={self.origin!r}, …)"


class TokensRead(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the folder gave.

    Attributes:
        tokens: By account.
        problems: A sentence per account whose file cannot be used.
    """

    tokens: dict[str, OfferedToken]
    problems: dict[str, str]


class _TokenFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content: `access_token`, and what Kite's answer of `/session/token` has beside it."""

    access_token: str
    api_key: str | None = None


class TokenFolder:
    """The files `kite_token_<account>.json` of one folder.

    Args:
        folder: Need not exist; None for no folder at all.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, accounts: Iterable[str]) -> TokensRead:
        """Look at the files of these accounts; blocks for as long as small files take."""
        tokens: dict[str, OfferedToken] = {}
        problems: dict[str, str] = {}
        for account in accounts:
            if self._folder is None:
                break
            file = self._folder / f"kite_token_{account}.json"
            try:
                modified_ns = file.stat().st_mtime_ns
                with file.open("rb") as stream:
                    content = stream.read(FILE_BYTES_MAX + 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                problems[account] = f"{file}: cannot be read: {error.strerror}"
                continue
            try:
                tokens[account] = _offered(content, file, modified_ns)
            except ValueError as error:
                problems[account] = f"{file}: {error}"
        return TokensRead(tokens=tokens, problems=problems)


def offered_by_description(access_token: str, origin: str) -> OfferedToken:
    """A token that stands in an account's description."""
    return OfferedToken(access_token=access_token, origin=origin, digest=_digest(access_token))


def _offered(content: bytes, file: Path, modified_ns: int) -> OfferedToken:
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
    try:
        held = msgspec.json.decode(content, type=_TokenFile)
    except msgspec.ValidationError as error:
        raise ValueError(f"should be an object with a text 'access_token' ({error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("not valid JSON") from error
    token = held.access_token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("'access_token' is empty or no token")
    return OfferedToken(
        access_token=token,
        origin=str(file),
        digest=_digest(token),
        made_at_ns=modified_ns,
        api_key=held.api_key,
    )


def _digest(token: str) -> str:
    return sha256(b"offered:" + token.encode()).hexdigest()[:16]
