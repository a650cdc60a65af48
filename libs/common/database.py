"""PostgreSQL: one pool per process that waits for the server and survives its restarts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from libs.common import logs
from libs.common.errors import RetryableError
from libs.common.lifecycle import sleep_unless
from libs.common.resilience.backoff import Backoff
from libs.common.settings import DatabaseSettings

ACQUIRE_TIMEOUT_SECONDS = 3.0
COMMAND_TIMEOUT_SECONDS = 30.0

log = logs.get_logger(__name__)


class DatabaseUnavailableError(RetryableError):
    """PostgreSQL does not answer now; what needs it can be tried again."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"PostgreSQL is not available: {reason}")
        self.reason = reason


# What a connection raises when the server is away, restarting or refusing, or gave up one of two
# transactions that waited for each other. The internal error is one too: asyncpg says "another
# operation is in progress" of a connection whose server died in the middle of one.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class Database:
    """A pool of connections that exists even while the server does not."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self.last_error: str | None = "not connected yet"

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: DatabaseSettings) -> AsyncIterator["Database"]:
        """Give a database; it connects at first use and is closed when the block ends."""
        database = cls(settings)
        try:
            yield database
        finally:
            await database.close()

    async def close(self) -> None:
        """Close the pool; connections that hang are dropped after a second."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def _ensure_pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._settings.database_url.get_secret_value(),
                        min_size=0,
                        max_size=self._settings.database_pool_size,
                        timeout=ACQUIRE_TIMEOUT_SECONDS,
                        command_timeout=COMMAND_TIMEOUT_SECONDS,
                        max_inactive_connection_lifetime=60.0,
                    )
        return self._pool

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator["asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"]:
        """Borrow a connection.

        Raises:
            DatabaseUnavailableError: If the server is away, before or during the block.
        """
        try:
            pool = await self._ensure_pool()
            async with asyncio.timeout(ACQUIRE_TIMEOUT_SECONDS):
                connection = await pool.acquire()
        except UNAVAILABLE as error:
            self.last_error = str(error) or type(error).__name__
            raise DatabaseUnavailableError(self.last_error) from error
        try:
            yield connection
            self.last_error = None
        except UNAVAILABLE as error:
            self.last_error = str(error) or type(error).__name__
            raise DatabaseUnavailableError(self.last_error) from error
        finally:
            with contextlib.suppress(*UNAVAILABLE):
                await pool.release(connection, timeout=1.0)

    async def probe(self) -> str | None:
        """Ask the server for a sign of life; gives None, or why it has none."""
        try:
            async with self.acquire() as connection:
                await connection.fetchval("SELECT 1")
        except DatabaseUnavailableError as error:
            return error.reason
        return None

    async def until_available(self, stop: asyncio.Event) -> bool:
        """Wait until the server answers; False if the process should stop first."""
        backoff = Backoff(first_seconds=0.2, ceiling_seconds=3.0)
        while not stop.is_set():
            reason = await self.probe()
            if reason is None:
                return True
            log.warning("database.waiting", reason=reason)
            await sleep_unless(stop, backoff.next_seconds())
        return False
