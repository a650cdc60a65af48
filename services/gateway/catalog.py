"""Reads instruments and the plan from PostgreSQL for REST."""

from datetime import date
from typing import Any

import asyncpg
import msgspec

from libs.common.database import Database, DatabaseUnavailableError
from services.gateway.errors import CatalogUnavailableError

_INSTRUMENT_COLUMNS = (
    "i.instrument_token, i.exchange_token, i.tradingsymbol, i.name, i.exchange, i.segment, "
    "i.underlying, i.kind, i.strike, i.expiry, i.option_type, i.lot_size, i.tick_size"
)
_INSTRUMENTS = "FROM instruments i LEFT JOIN plan_entries p USING (instrument_token)"
_INSTRUMENT_ORDER = "ORDER BY i.underlying, i.expiry NULLS FIRST, i.strike, i.instrument_token"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are wanted; None means any.

    Attributes:
        underlying: Exact name.
        expiry: Exact day.
        kind: `option`, `future`, `index` or `equity`.
        planned: Only instruments that are (or are not) in the plan.
        limit: Rows at most.
        offset: Rows to skip.
    """

    underlying: str | None = None
    expiry: date | None = None
    kind: str | None = None
    planned: bool | None = None
    limit: int
    offset: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of an answer.

    Attributes:
        items: The rows.
        total: How many rows there are over all pages.
    """

    items: list[dict[str, Any]]
    total: int


class Catalog:
    """Read-only queries; each raises CatalogUnavailableError when PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def instruments(self, wanted: Filter) -> Page:
        """Instruments of the current dump, by underlying, expiry, strike."""
        return await self._page(
            columns=_INSTRUMENT_COLUMNS, source=_INSTRUMENTS, order=_INSTRUMENT_ORDER, wanted=wanted
        )

    async def chains(self) -> Page:
        """Every (underlying, expiry) that has options, with how many of them are planned."""
        rows = await self._fetch(
            "SELECT i.underlying, i.expiry, count(*) AS options, count(p.account_id) AS planned "
            "FROM instruments i LEFT JOIN plan_entries p USING (instrument_token) "
            "WHERE i.kind = 'option' GROUP BY i.underlying, i.expiry "
            "ORDER BY i.underlying, i.expiry"
        )
        return Page(items=rows, total=len(rows))

    async def _page(self, *, columns: str, source: str, order: str, wanted: Filter) -> Page:
        conditions = []
        values: list[Any] = []
        for column in ("underlying", "expiry", "kind"):
            value = getattr(wanted, column)
            if value is not None:
                values.append(value)
                conditions.append(f"i.{column} = ${len(values)}")
        if wanted.planned is not None:
            conditions.append(f"p.account_id IS {'NOT ' if wanted.planned else ''}NULL")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        # One statement, so that page and total belong to the same dump even while it is swapped;
        # the outer join keeps the total when the page lies beyond the end. Every fragment is a
        # constant of this module: values travel as parameters only.
        query = f"""
            WITH wanted AS MATERIALIZED (SELECT {columns}, row_number() OVER ({order}) AS place
                                         {source} {where}),
                 page AS (SELECT * FROM wanted ORDER BY place
                          LIMIT ${len(values) + 1} OFFSET ${len(values) + 2})
            SELECT c.total, page.* FROM (SELECT count(*) AS total FROM wanted) c
            LEFT JOIN page ON true ORDER BY page.place
        """  # noqa: S608
        rows = await self._fetch(query, *values, wanted.limit, wanted.offset)
        total = int(rows[0]["total"])
        items = []
        for row in rows:
            place = row.pop("place")
            del row["total"]
            if place is not None:
                items.append(row)
        return Page(items=items, total=total)

    async def _fetch(self, query: str, *values: Any) -> list[dict[str, Any]]:
        try:
            async with self._database.acquire() as connection:
                return [dict(row) for row in await connection.fetch(query, *values)]
        except DatabaseUnavailableError as error:
            raise CatalogUnavailableError(error.reason) from error
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise CatalogUnavailableError(f"the schema is not there yet ({error})") from error
