"""Requests per calendar second, and orders per minute, of an api_key, as Kite documents them."""

from enum import StrEnum
from typing import Final


class RequestClass(StrEnum):
    """Which budget a request draws on."""

    QUOTE = "quote"
    HISTORICAL = "historical"
    ORDER = "order"
    OTHER = "other"


LIMITS_PER_SECOND: Final = {
    RequestClass.QUOTE: 1,
    RequestClass.HISTORICAL: 3,
    RequestClass.ORDER: 10,
    RequestClass.OTHER: 10,
}
LIMITS_PER_MINUTE: Final = {RequestClass.ORDER: 400}

_SECONDS_PER_MINUTE: Final = 60


class RateLimiter:
    """Counts requests of the current calendar second and minute; earlier ones are forgotten.

    Args:
        enabled: When false everything is allowed.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.refused = 0
        self._second = -1
        self._used: dict[tuple[str, RequestClass], int] = {}
        self._minute = -1
        self._used_in_minute: dict[tuple[str, RequestClass], int] = {}

    def allow(self, api_key: str, request_class: RequestClass, epoch_second: int) -> bool:
        """Take one request from the budget, or say that it is used up.

        Args:
            api_key: Whose budget.
            request_class: Which budget.
            epoch_second: The calendar second, in real time.
        """
        if not self.enabled:
            return True
        if epoch_second != self._second:
            self._second = epoch_second
            self._used.clear()
        if epoch_second // _SECONDS_PER_MINUTE != self._minute:
            self._minute = epoch_second // _SECONDS_PER_MINUTE
            self._used_in_minute.clear()
        key = (api_key, request_class)
        used, in_minute = self._used.get(key, 0), self._used_in_minute.get(key, 0)
        per_minute = LIMITS_PER_MINUTE.get(request_class)
        if used >= LIMITS_PER_SECOND[request_class] or (
            per_minute is not None and in_minute >= per_minute
        ):
            self.refused += 1
            return False
        self._used[key] = used + 1
        if per_minute is not None:
            self._used_in_minute[key] = in_minute + 1
        return True
