"""Reads instruments and the plan from PostgreSQL for REST."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import msgspec

from libs.common.database import Database, DatabaseUnavailableError
from services.gateway.domain.instrument_query import Day, InstrumentQuery, conditions
from services.gateway.errors import CatalogUnavailableError, NotFoundError

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

_INSTRUMENT_COLUMNS = (
    "i.instrument_token, i.exchange_token, i.tradingsymbol, i.name, i.exchange, i.segment, "
    "i.underlying, i.kind, i.strike, i.expiry, i.option_type, i.lot_size, i.tick_size, "
    "i.reused_from"
)
_INSTRUMENT_ROWS = "FROM instrument_rows i LEFT JOIN plan_entries p USING (instrument_token)"
_INSTRUMENT_ORDER = "ORDER BY i.underlying, i.expiry NULLS FIRST, i.strike, i.instrument_token"


# Which dump a question is about. Days are those of the market in force, live or simulated.
_CURRENT_DUMP = "is_current"
_DUMP_OF_A_DAY = """
revision = (SELECT d.revision FROM instrument_dumps d
            JOIN instrument_dumps c ON c.is_current AND d.source = c.source
            WHERE {day} ORDER BY d.market_date DESC, d.revision DESC LIMIT 1)
"""
_DUMP = "SELECT revision, market_date, source, loaded_at FROM instrument_dumps WHERE "
_EXCHANGES = """
SELECT exchange, market_date, row_count AS rows, outcome, reason
FROM instrument_dump_exchanges WHERE revision = $1 ORDER BY exchange
"""
_KEPT_DAYS = """
SELECT DISTINCT d.market_date FROM instrument_dumps d
JOIN instrument_dumps c ON c.is_current AND d.source = c.source ORDER BY d.market_date
"""
_PREVIOUS_DAY = _DUMP_OF_A_DAY.format(day="d.market_date < c.market_date")
_NAMED_DAY = _DUMP_OF_A_DAY.format(day="d.market_date = $1")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of an answer.

    Attributes:
        items: The rows.
        total: How many rows there are over all pages.
    """

    items: list[dict[str, Any]]
    total: int


class InstrumentPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of instruments.

    Attributes:
        items: The rows.
        total: How many rows there are over all pages.
        dump: Which dump they are of: revision, market_date, source, loaded_at, and by exchange
            of which day its rows are; None before the first.
    """

    items: list[dict[str, Any]]
    total: int
    dump: dict[str, Any] | None


class Catalog:
    """Read-only queries; each raises CatalogUnavailableError when PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def instruments(self, wanted: InstrumentQuery) -> InstrumentPage:
        """Instruments of one day's dump, by underlying, expiry, strike.

        Raises:
            NotFoundError: No dump of the wanted day is kept.
        """
        async with self._snapshot() as connection:
            dump = await self._dump(connection, wanted)
            if dump is None:
                return InstrumentPage(items=[], total=0, dump=None)
            clauses, values = conditions(wanted, first=2)
            where = " AND ".join(("i.revision = $1", *clauses))
            # Every fragment is a constant: values travel as parameters only. The outer join keeps
            # the total when the page lies beyond the end.
            query = f"""
                WITH page AS (SELECT {_INSTRUMENT_COLUMNS} {_INSTRUMENT_ROWS} WHERE {where}
                              {_INSTRUMENT_ORDER}
                              LIMIT ${len(values) + 2} OFFSET ${len(values) + 3})
                SELECT c.total, i.*
                FROM (SELECT count(*) AS total {_INSTRUMENT_ROWS} WHERE {where}) c
                LEFT JOIN page i ON true {_INSTRUMENT_ORDER}
            """  # noqa: S608
            rows = await connection.fetch(
                query, dump["revision"], *values, wanted.limit, wanted.offset
            )
            exchanges = await connection.fetch(_EXCHANGES, dump["revision"])
        items = [dict(row) for row in rows if row["instrument_token"] is not None]
        for item in items:
            del item["total"]
        return InstrumentPage(
            items=items,
            total=int(rows[0]["total"]),
            dump={**dump, "exchanges": [dict(row) for row in exchanges]},
        )

    async def _dump(self, connection: Connection, wanted: InstrumentQuery) -> asyncpg.Record | None:
        """The dump that is asked about; None if there has never been one."""
        if wanted.market_date is not None:
            dump = await connection.fetchrow(_DUMP + _NAMED_DAY, wanted.market_date)
            problem = f"no instruments of {wanted.market_date} are kept"
            field = "market_date"
        elif wanted.day is Day.PREVIOUS:
            dump = await connection.fetchrow(_DUMP + _PREVIOUS_DAY)
            field, problem = "day", "no instruments of an earlier day are kept"
        else:
            return await connection.fetchrow(_DUMP + _CURRENT_DUMP)
        if dump is None:
            rows = await connection.fetch(_KEPT_DAYS)
            kept = ", ".join(row["market_date"].isoformat() for row in rows) or "none"
            raise NotFoundError(field, f"{problem}; kept: {kept}")
        return dump

    async def chains(self) -> Page:
        """Every (underlying, expiry) that has options, with how many of them are planned."""
        rows = await self._fetch(
            "SELECT i.underlying, i.expiry, count(*) AS options, count(p.account_id) AS planned "
            "FROM instruments i LEFT JOIN plan_entries p USING (instrument_token) "
            "WHERE i.kind = 'option' GROUP BY i.underlying, i.expiry "
            "ORDER BY i.underlying, i.expiry"
        )
        return Page(items=rows, total=len(rows))

    async def _fetch(self, query: str, *values: Any) -> list[dict[str, Any]]:
        async with self._reading() as connection:
            return [dict(row) for row in await connection.fetch(query, *values)]

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """Several statements on the same state, whatever is swapped meanwhile."""
        async with (
            self._reading() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with self._database.acquire() as connection:
                yield connection
        except DatabaseUnavailableError as error:
            raise CatalogUnavailableError(error.reason) from error
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise CatalogUnavailableError(f"the schema is not there yet ({error})") from error
