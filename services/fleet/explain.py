"""Asks a fleet over its bus how an option's Greeks came about, by token or by symbol."""

from libs.common.bus import market_requests
from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    BusUnavailableError,
    NoResponderError,
    RequestTimeoutError,
    ServiceBusyError,
)
from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Explanation, InstrumentSet
from libs.common.domain.instruments import underlying_of_symbol
from libs.common.settings import NatsSettings
from services.fleet.errors import FleetCannotAnswerError, UnknownSymbolError


async def explanation_of(settings: NatsSettings, name: str) -> Explanation:
    """Have the fleet explain an option.

    Args:
        settings: Where the bus is.
        name: An instrument_token, or a tradingsymbol such as `NIFTY26NOV24500CE`.

    Raises:
        UnknownSymbolError: No instrument of the day is called so.
        ServiceRefusedError: It is no option, or no instrument has the token.
        FleetCannotAnswerError: Nobody can explain it now.
        ConnectDeadlineError: The bus does not answer.
    """
    async with Bus.open(settings, name="tickfleet-explain") as bus:
        try:
            token = int(name) if name.isdecimal() else await _token_of(bus, name.upper())
            return await market_requests.explanation(bus, token)
        except NoResponderError as error:
            raise FleetCannotAnswerError("no greeks worker runs") from error
        except (RequestTimeoutError, ServiceBusyError, BusUnavailableError) as error:
            raise FleetCannotAnswerError(str(error)) from error


async def _token_of(bus: Bus, symbol: str) -> int:
    """Look a symbol up in the set of its underlying, which the symbol begins with."""
    underlying = underlying_of_symbol(symbol)
    if underlying is None:
        raise UnknownSymbolError(symbol, "it is not spelled as an option of Kite")
    entry = await Bucket(bus, streams.INSTRUMENTS.name).get(subjects.escape(underlying))
    if entry is None:
        raise UnknownSymbolError(symbol, f"no instruments of {underlying} are known")
    found = codec.from_msgpack(InstrumentSet, entry.value)
    for item in found.instruments:
        if item.tradingsymbol == symbol:
            return item.instrument_token
    raise UnknownSymbolError(
        symbol, f"{underlying} has no such instrument in the dump of {found.market_date}"
    )
