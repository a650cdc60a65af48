"""A connection that was broken in the middle of an operation is an outage, never a defect."""

from typing import Any, cast

import asyncpg
import pytest

from libs.common.database import Database, DatabaseUnavailableError
from libs.common.settings import DatabaseSettings

# As asyncpg says it after its server was killed.
BROKEN = asyncpg.InternalClientError("cannot switch to state 12; another operation is in progress")


class Pool:
    """Hands one connection out, and may fail when it comes back."""

    def __init__(self, on_release: Exception | None) -> None:
        self.on_release = on_release
        self.released = 0

    async def acquire(self) -> object:
        """Hand it out."""
        return object()

    async def release(self, connection: object, timeout: float) -> None:  # noqa: ASYNC109  # As asyncpg's.
        """Take it back."""
        del connection, timeout
        self.released += 1
        if self.on_release is not None:
            raise self.on_release


def database(pool: Pool) -> Database:
    made = Database(DatabaseSettings())
    made._pool = cast("Any", pool)
    return made


async def test_broken_connection_in_use_is_an_outage_and_is_given_back():
    pool = Pool(on_release=BROKEN)

    with pytest.raises(DatabaseUnavailableError, match="another operation"):
        async with database(pool).acquire():
            raise BROKEN

    assert pool.released == 1


async def test_connection_that_cannot_be_given_back_spoils_nothing_that_was_done():
    pool = Pool(on_release=BROKEN)

    async with database(pool).acquire():
        done = True

    assert done
    assert pool.released == 1
