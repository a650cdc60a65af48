"""Requests per calendar second and api_key, in the classes that Kite documents."""

from enum import StrEnum
from typing import Final


class RequestClass(StrEnum):
    """Which budget a request draws on."""

    QUOTE = "quote"
    HISTORICAL = "historical"
    OTHER = "other"


LIMITS_PER_SECOND: Final = {
    RequestClass.QUOTE: 1,
    RequestClass.HISTORICAL: 3,
    RequestClass.OTHER: 10,
}


class RateLimiter:
    """Counts requests of the current calendar second; earlier seconds are forgotten.

    Args:
        enabled: When false everything is allowed.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.refused = 0
        self._second = -1
        self._used: dict[tuple[str, RequestClass], int] = {}

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
        key = (api_key, request_class)
        used = self._used.get(key, 0)
        if used >= LIMITS_PER_SECOND[request_class]:
            self.refused += 1
            return False
        self._used[key] = used + 1
        return True
