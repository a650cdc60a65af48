"""Reads instruments and the plan from PostgreSQL for REST."""

from typing import Any

import asyncpg
import msgspec

from libs.common.database import Database, DatabaseUnavailableError
from services.gateway.domain.instrument_query import Day, InstrumentQuery, conditions
from services.gateway.errors import CatalogUnavailableError, NotFoundError

_INSTRUMENT_COLUMNS = (
    "i.instrument_token, i.exchange_token, i.tradingsymbol, i.name, i.exchange, i.segment, "
    "i.underlying, i.kind, i.strike, i.expiry, i.option_type, i.lot_size, i.tick_size, "
    "i.reused_from"
)
_INSTRUMENT_ORDER = "ORDER BY i.underlying, i.expiry NULLS FIRST, i.strike, i.instrument_token"


# Which dump a question is about. Days are those of the market in force, live or simulated.
_CURRENT_DUMP = "is_current"
_DUMP_OF_A_DAY = """
revision = (SELECT d.revision FROM instrument_dumps d
            JOIN instrument_dumps c ON c.is_current AND d.source = c.source
            WHERE {day} ORDER BY d.market_date DESC, d.revision DESC LIMIT 1)
"""
_DUMP_COLUMNS = ("revision", "market_date", "source", "loaded_at")
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
        values: list[Any] = []
        which = _CURRENT_DUMP
        if wanted.market_date is not None:
            which, values = _NAMED_DAY, [wanted.market_date]
        elif wanted.day is Day.PREVIOUS:
            which = _PREVIOUS_DAY
        clauses, more = conditions(wanted, first=len(values) + 1)
        values += more
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        # One statement, so that dump, page and total belong together even while dumps are
        # swapped. Every fragment is a constant: values travel as parameters only.
        query = f"""
            WITH dump AS (SELECT revision, market_date, source, loaded_at
                          FROM instrument_dumps WHERE {which}),
                 wanted AS MATERIALIZED (
                     SELECT {_INSTRUMENT_COLUMNS},
                            row_number() OVER ({_INSTRUMENT_ORDER}) AS place
                     FROM instrument_rows i JOIN dump USING (revision)
                     LEFT JOIN plan_entries p USING (instrument_token) {where}),
                 page AS (SELECT * FROM wanted ORDER BY place
                          LIMIT ${len(values) + 1} OFFSET ${len(values) + 2})
            SELECT dump.*, c.total, page.* FROM (SELECT count(*) AS total FROM wanted) c
            LEFT JOIN dump ON true LEFT JOIN page ON true ORDER BY page.place
        """  # noqa: S608
        rows = await self._fetch(query, *values, wanted.limit, wanted.offset)
        total, dump = int(rows[0]["total"]), {name: rows[0][name] for name in _DUMP_COLUMNS}
        if dump["revision"] is None:
            if which is not _CURRENT_DUMP:
                raise await self._not_kept(wanted)
            return InstrumentPage(items=[], total=0, dump=None)
        dump["exchanges"] = await self._fetch(_EXCHANGES, dump["revision"])
        items = []
        for row in rows:
            if row.pop("place") is not None:
                del row["total"]
                items.append({k: v for k, v in row.items() if k not in _DUMP_COLUMNS})
        return InstrumentPage(items=items, total=total, dump=dump)

    async def _not_kept(self, wanted: InstrumentQuery) -> NotFoundError:
        rows = await self._fetch(_KEPT_DAYS)
        kept = ", ".join(row["market_date"].isoformat() for row in rows) or "none"
        if wanted.market_date is not None:
            return NotFoundError(
                "market_date", f"no instruments of {wanted.market_date} are kept; kept: {kept}"
            )
        return NotFoundError("day", f"no instruments of an earlier day are kept; kept: {kept}")

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
        try:
            async with self._database.acquire() as connection:
                return [dict(row) for row in await connection.fetch(query, *values)]
        except DatabaseUnavailableError as error:
            raise CatalogUnavailableError(error.reason) from error
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise CatalogUnavailableError(f"the schema is not there yet ({error})") from error
