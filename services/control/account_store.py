"""The table `accounts`: accounts whose secrets lie encrypted, and switches for all of them."""

from collections.abc import Mapping

import msgspec

from libs.common import logs
from libs.common.contracts.messages import AccountSource
from libs.common.database import Database
from libs.common.seal import Seal, SealError
from services.control.domain import accounts
from services.control.domain.accounts import Found, Problem
from services.control.errors import AccountCommandError

PLACE = "the table accounts"

log = logs.get_logger(__name__)


class _Secrets(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is encrypted in a row. The name is in it, so that rows cannot be exchanged."""

    account: str
    api_key: str
    api_secret: str | None = None
    user_id: str | None = None
    password: str | None = None
    totp_secret: str | None = None

    def __repr__(self) -> str:
        return f"_Secrets(account={self.account!r}, …)"


class StoredAccounts(msgspec.Struct, frozen=True, kw_only=True):
    """The table as it was read.

    Attributes:
        found: Its accounts, and which rows cannot be used.
        enabled: What people switched on or off, by name; accounts of other sources too.
    """

    found: Found = Found()
    enabled: Mapping[str, bool] = {}


class AccountStore:
    """Reads and writes the table. All calls raise DatabaseUnavailableError while it is away.

    Args:
        database: PostgreSQL, migrated.
        seal: The keys of ACCOUNT_ENCRYPTION_KEY.
    """

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database = database
        self._seal = seal

    async def read(self) -> StoredAccounts:
        """Read everything; a row that cannot be opened is a problem and no error."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                "SELECT account_id, sealed_secrets, enabled, connections, tokens_per_connection"
                " FROM accounts ORDER BY account_id"
            )
        found = []
        problems = []
        for row in rows:
            name = row["account_id"]
            if row["sealed_secrets"] is None:
                continue
            try:
                secrets = self._open(name, row["sealed_secrets"])
            except SealError as error:
                message = (
                    f"account {name} is skipped: its row in {PLACE} cannot be read "
                    f"({error.reason}): put the key that sealed it into ACCOUNT_ENCRYPTION_KEY, "
                    f"or rotate the account"
                )
                problems.append(
                    Problem(source=AccountSource.DATABASE, message=message, account=name)
                )
                continue
            values = _values(secrets) | {field: str(row[field] or "") for field in accounts.LIMITS}
            found.append(accounts.describe(name, AccountSource.DATABASE, PLACE, values))
        return StoredAccounts(
            found=Found(accounts=tuple(found), problems=tuple(problems)),
            enabled={row["account_id"]: row["enabled"] for row in rows},
        )

    async def add(self, name: str, values: Mapping[str, str | None]) -> None:
        """Store a new account; it is enabled, whatever a switch said before.

        Args:
            name: Its name.
            values: Its fields, without shortcomings.

        Raises:
            AccountCommandError: `conflict`: the table describes one of this name already.
        """
        async with self._database.acquire() as connection:
            stored = await connection.fetchval(
                "INSERT INTO accounts"
                " (account_id, sealed_secrets, connections, tokens_per_connection)"
                " VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (account_id) DO UPDATE SET sealed_secrets = EXCLUDED.sealed_secrets,"
                " connections = EXCLUDED.connections,"
                " tokens_per_connection = EXCLUDED.tokens_per_connection,"
                " enabled = true, updated_at = now()"
                " WHERE accounts.sealed_secrets IS NULL RETURNING account_id",
                name,
                self._sealed(name, values),
                *_limits(values),
            )
        if stored is None:
            raise AccountCommandError(
                "conflict", f"account {name} exists in {PLACE}: rotate it", field="account"
            )

    async def rotate(self, name: str, changes: Mapping[str, str | None]) -> None:
        """Replace the given fields of an account and keep the others.

        Args:
            name: Which.
            changes: New values by field; what is None stays.

        Raises:
            AccountCommandError: `not_found`, or `bad_request` naming a field that the account
                would lack or have wrong.
        """
        async with self._database.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                "SELECT sealed_secrets, connections, tokens_per_connection FROM accounts"
                " WHERE account_id = $1 AND sealed_secrets IS NOT NULL FOR UPDATE",
                name,
            )
            if row is None:
                raise AccountCommandError(
                    "not_found", f"account {name} is not in {PLACE}", field="account"
                )
            try:
                held = _values(self._open(name, row["sealed_secrets"]))
            except SealError:
                # Nobody can read the old secrets any more: only a whole set of new ones helps.
                held = {}
            values = held | {field: str(row[field] or "") for field in accounts.LIMITS}
            values |= {field: value for field, value in changes.items() if value is not None}
            for field, why in accounts.shortcomings(values).items():
                raise AccountCommandError("bad_request", f"{field} {why}", field=field)
            await connection.execute(
                "UPDATE accounts SET sealed_secrets = $2, connections = $3,"
                " tokens_per_connection = $4, updated_at = now() WHERE account_id = $1",
                name,
                self._sealed(name, values),
                *_limits(values),
            )

    async def remove(self, name: str) -> bool:
        """Delete an account with its switch; says whether there was one."""
        async with self._database.acquire() as connection:
            gone = await connection.fetchval(
                "DELETE FROM accounts WHERE account_id = $1 RETURNING account_id", name
            )
        return gone is not None

    async def switch(self, name: str, *, enabled: bool) -> None:
        """Switch an account of any source on or off."""
        async with self._database.acquire() as connection:
            await connection.execute(
                "INSERT INTO accounts (account_id, enabled) VALUES ($1, $2)"
                " ON CONFLICT (account_id) DO UPDATE SET enabled = $2, updated_at = now()",
                name,
                enabled,
            )

    async def reseal(self) -> int:
        """Encrypt anew, under the newest key, what an older one sealed; says how many rows."""
        done = 0
        async with self._database.acquire() as connection:
            rows = await connection.fetch(
                "SELECT account_id, sealed_secrets FROM accounts WHERE sealed_secrets IS NOT NULL"
            )
            for row in rows:
                name, old = row["account_id"], row["sealed_secrets"]
                if self._seal.is_current(old.encode()):
                    continue
                try:
                    fresh = self._seal.seal(self._seal.open(old.encode())).decode()
                except SealError:
                    continue  # `read` tells of it.
                # Only if nobody rotated it in between.
                changed = await connection.execute(
                    "UPDATE accounts SET sealed_secrets = $3"
                    " WHERE account_id = $1 AND sealed_secrets = $2",
                    name,
                    old,
                    fresh,
                )
                done += changed == "UPDATE 1"
        if done:
            log.info("accounts.resealed", count=done)
        return done

    def _sealed(self, name: str, values: Mapping[str, str | None]) -> str:
        secrets = _Secrets(
            account=name,
            api_key=values.get("api_key") or "",
            api_secret=values.get("api_secret") or None,
            user_id=values.get("user_id") or None,
            password=values.get("password") or None,
            totp_secret=values.get("totp_secret") or None,
        )
        return self._seal.seal(msgspec.json.encode(secrets)).decode()

    def _open(self, name: str, sealed: str) -> _Secrets:
        try:
            secrets = msgspec.json.decode(self._seal.open(sealed.encode()), type=_Secrets)
        except msgspec.DecodeError as error:
            raise SealError("what was sealed is no account") from error
        if secrets.account != name:
            raise SealError("what was sealed belongs to another account")
        return secrets


def _values(secrets: _Secrets) -> dict[str, str | None]:
    values: dict[str, str | None] = msgspec.structs.asdict(secrets)
    del values["account"]
    return values


def _limits(values: Mapping[str, str | None]) -> list[int | None]:
    return [int(values.get(field) or 0) or None for field in accounts.LIMITS]
