"""Market data over REST: the instrument dump, quotes and historical candles."""

import asyncio
import gzip
from datetime import date, datetime, time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, to_dump_csv
from services.simulator import metrics
from services.simulator.access import Access, api_key_of, success
from services.simulator.domain import candles, quote_rows
from services.simulator.domain.dump_faults import cut_inside_a_row, damaged_rows
from services.simulator.domain.faults import Fault, FaultBook, FaultKind
from services.simulator.domain.rate_limits import RequestClass
from services.simulator.errors import InputError
from services.simulator.exchange import Exchange

_EXCHANGES = frozenset({"NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO", "MF"})
_QUOTES_AT_MOST = 500
_PRICES_AT_MOST = 1_000


class MarketRoutes:
    """`/instruments`, `/quote`, `/instruments/historical`.

    Args:
        exchange: The running market.
        access: Admits requests.
        faults: The faults in force.
    """

    def __init__(self, exchange: Exchange, access: Access, faults: FaultBook) -> None:
        self._exchange = exchange
        self._access = access
        self._faults = faults
        # One day's dumps, compressed, by exchange ("" for all).
        self._dumps: dict[str, bytes] = {}
        self._dumps_day: date | None = None

    def routes(self) -> list[Route]:
        """All routes of this area."""
        return [
            Route("/instruments", self.dump),
            Route("/instruments/historical/{token}/{interval}", self.history),
            Route("/instruments/{exchange}", self.dump),
            Route("/quote", self.quote),
            Route("/quote/ohlc", self.ohlc),
            Route("/quote/ltp", self.ltp),
        ]

    async def dump(self, request: Request) -> Response:
        """Give the instruments of the day as CSV, of all exchanges or of one."""
        # Without a token, too: Kite's dump is read that way in the wild. A wrong token is refused.
        if "authorization" in request.headers:
            self._access.session(request)
        exchange = request.path_params.get("exchange", "")
        if exchange and exchange not in _EXCHANGES:
            raise InputError(f"Invalid exchange: {exchange[:20]!r}.")
        universe = self._exchange.market.universe
        if self._dumps_day != universe.day:
            self._dumps_day = universe.day
            self._dumps.clear()
        faults = self._faults.strike_dump(api_key_of(request), exchange)
        body = None if faults else self._dumps.get(exchange)
        if body is None:
            rows = [i for i in universe.instruments if exchange in {"", i.exchange}]
            closes = self._exchange.quotes.close
            prices = {
                i.instrument_token: float(closes[universe.row_of_token[i.instrument_token]]) / 100
                for i in rows
            }
            body = await asyncio.to_thread(_compressed_csv, rows, prices, faults)
            if not faults:
                self._dumps[exchange] = body
        for fault in faults:
            metrics.FAULTS_TOTAL.labels(kind=fault.kind.value).inc()
        headers = {"content-type": "text/csv"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return Response(body, headers=headers)
        return Response(await asyncio.to_thread(gzip.decompress, body), headers=headers)

    async def quote(self, request: Request) -> Response:
        """Give full quotes."""
        rows = self._rows(request, _QUOTES_AT_MOST)
        market, quotes = self._exchange.market, self._exchange.quotes
        now_ns = self._exchange.clock.now_ns()
        return success(quote_rows.quotes(market, quotes, rows, now_ns=now_ns))

    async def ohlc(self, request: Request) -> Response:
        """Give last price and the day's open, high, low and the previous close."""
        rows = self._rows(request, _PRICES_AT_MOST)
        universe, quotes = self._exchange.market.universe, self._exchange.quotes
        return success(
            {
                key: {
                    **quote_rows.last_price(universe, quotes, row),
                    "ohlc": quote_rows.ohlc(quotes, row),
                }
                for key, row in rows.items()
            }
        )

    async def ltp(self, request: Request) -> Response:
        """Give last prices."""
        rows = self._rows(request, _PRICES_AT_MOST)
        universe, quotes = self._exchange.market.universe, self._exchange.quotes
        return success(
            {key: quote_rows.last_price(universe, quotes, row) for key, row in rows.items()}
        )

    async def history(self, request: Request) -> Response:
        """Give candles."""
        self._access.session(request, RequestClass.HISTORICAL)
        market, now_ns = self._exchange.market, self._exchange.clock.now_ns()
        token = request.path_params["token"]
        row = market.universe.row_of_token.get(int(token)) if token.isdecimal() else None
        if row is None:
            raise InputError("invalid token")
        query = request.query_params
        start = _moment(query.get("from", ""), "from", time.min)
        end = _moment(query.get("to", ""), "to", time(23, 59, 59))
        rows: list[Any] = await asyncio.to_thread(
            candles.candles,
            market,
            row,
            interval=request.path_params["interval"],
            start=start,
            end=end,
            now_ns=now_ns,
            with_oi=query.get("oi") == "1",
        )
        return success({"candles": rows})

    def _rows(self, request: Request, at_most: int) -> dict[str, int]:
        """Look up the wanted instruments; unknown ones are left out, as Kite does."""
        self._access.session(request, RequestClass.QUOTE)
        wanted = request.query_params.getlist("i")
        if not wanted:
            raise InputError("Missing or empty field `i`.")
        if len(wanted) > at_most:
            raise InputError(f"Too many instruments: {len(wanted)}, at most {at_most}.")
        universe = self._exchange.market.universe
        rows: dict[str, int] = {}
        for key in wanted:
            exchange, _, symbol = key.partition(":")
            if key.isdecimal() and len(key) < 12:
                row = universe.row_of_token.get(int(key))
            else:
                row = universe.row_of_symbol.get((exchange, symbol))
            if row is not None:
                rows[key] = row
        return rows


def _compressed_csv(rows: list[Instrument], prices: dict[int, float], faults: list[Fault]) -> bytes:
    text = to_dump_csv(damaged_rows(rows, faults), prices)
    if any(fault.kind is FaultKind.TRUNCATED_DUMP for fault in faults):
        text = cut_inside_a_row(text)
    return gzip.compress(text, compresslevel=5, mtime=0)


def _moment(text: str, name: str, of_a_date: time) -> datetime:
    """Read `YYYY-MM-DD[ HH:MM:SS]` as Indian time."""
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), of_a_date, tzinfo=IST)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"invalid {name} date") from None
    return moment.replace(tzinfo=IST) if moment.tzinfo is None else moment.astimezone(IST)
