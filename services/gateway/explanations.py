"""The way to have greeks explain an option."""

from libs.common.bus import market_requests
from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    BusUnavailableError,
    NoResponderError,
    RequestTimeoutError,
    ServiceBusyError,
    ServiceRefusedError,
)
from libs.common.contracts import codec
from libs.common.contracts.messages import Explanation
from services.gateway.errors import BadParameterError, GreeksUnavailableError, NotFoundError

_FIELD = "instrument_token"
_RETRY_SECONDS = 2.0


class ExplanationDesk:
    """Requests to the greeks workers; nothing is judged or kept here.

    Args:
        bus: The connection.
        answer_seconds: How long to wait for an answer.
    """

    def __init__(
        self, bus: Bus, *, answer_seconds: float = market_requests.EXPLANATION_SECONDS
    ) -> None:
        self._bus = bus
        self._answer_seconds = answer_seconds

    async def ask(self, instrument_token: int) -> Explanation:
        """Have the owner of an option explain it.

        Raises:
            NotFoundError: No instrument of the day has that token.
            BadParameterError: It is no option.
            GreeksUnavailableError: Nobody can explain it now, or there was no answer in time.
        """
        try:
            return await market_requests.explanation(
                self._bus, instrument_token, timeout_seconds=self._answer_seconds
            )
        except ServiceRefusedError as error:
            field = error.field or _FIELD
            if error.code == "not_found":
                raise NotFoundError(field, error.reason) from error
            raise BadParameterError(field, error.reason) from error
        except ServiceBusyError as error:
            raise GreeksUnavailableError(
                "unavailable", error.reason, retry_after_seconds=error.retry_after_seconds
            ) from error
        except NoResponderError as error:
            raise GreeksUnavailableError(
                "unavailable", "no greeks worker runs now", retry_after_seconds=_RETRY_SECONDS
            ) from error
        except RequestTimeoutError as error:
            raise GreeksUnavailableError("timeout", "greeks did not answer in time") from error
        except BusUnavailableError as error:
            raise GreeksUnavailableError(
                "unavailable", str(error), retry_after_seconds=_RETRY_SECONDS
            ) from error
        except codec.DecodeError as error:
            raise GreeksUnavailableError(
                "unavailable", "greeks answered something this gateway cannot read"
            ) from error
