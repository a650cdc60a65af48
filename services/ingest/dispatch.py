"""Finds the account that serves a call: an own one, the next one, or the own one a little later."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from libs.common import logs
from services.ingest import metrics
from services.ingest.account_desk import AccountDesk, Call
from services.ingest.domain import handover
from services.ingest.domain.handover import Failure
from services.ingest.errors import AccountFailedError, RequestError

# Between two rounds over other processes, which cost a message each.
_SHORTEST_SLEEP_SECONDS = 0.05

log = logs.get_logger(__name__)

T = TypeVar("T")


class Served(NamedTuple, Generic[T]):
    """The result of a call, and which account made it."""

    account: str
    result: T


class Work(NamedTuple, Generic[T]):
    """A call that one of several accounts can make.

    Attributes:
        call: Its kind.
        here: Makes it with an account of this process; waits for a free call until the given
            moment, or not at all.
        there: Has the process make it that holds the account; given the accounts tried before
            and the moment until which an answer is of use.
    """

    call: Call
    here: Callable[[AccountDesk, float | None], Awaitable[T]]
    there: Callable[[str, Iterable[str], float], Awaitable[T]]


class Dispatch:
    """Serves calls with the accounts of this process first.

    Args:
        desks: The accounts that this process holds.
        accounts: All accounts of the plan.
    """

    def __init__(
        self, desks: Mapping[str, AccountDesk], accounts: Callable[[], Iterable[str]]
    ) -> None:
        self._desks = desks
        self._accounts = accounts
        self._turns = itertools.count()

    async def alone(
        self, work: Work[T], account: str, *, until: float, may_wait: bool
    ) -> Served[T]:
        """Serve a call with one account and no other.

        Args:
            work: The call.
            account: With which.
            until: When to give up waiting (`time.monotonic`).
            may_wait: Whether to wait for a free call at all.

        Raises:
            RequestError: It cannot be served.
        """
        desk = self._desks.get(account)
        if desk is None:
            gone = AccountFailedError(account, Failure.NO_SESSION.value)
            raise RequestError(handover.verdict({account: gone}))
        while True:
            try:
                return Served(account, await work.here(desk, until if may_wait else None))
            except AccountFailedError as error:
                # Limited although it waited: by Kite's own count. The next call waits for that.
                if not may_wait or error.failure != Failure.LIMITED:
                    raise RequestError(handover.verdict({account: error})) from error

    async def anywhere(self, work: Work[T], *, until: float, tried: str = "") -> Served[T]:
        """Serve a call with any account.

        Each account is asked once, own ones first. When limits are all that stands in the way,
        the call waits for an own account, or without one for the first that will be free.

        Args:
            work: The call.
            until: When to give up waiting (`time.monotonic`).
            tried: The header `Tried` of a request that comes from elsewhere.

        Raises:
            RequestError: It cannot be served.
        """
        while True:
            attempts: dict[str, AccountFailedError] = {}
            served = await self._at_once(work, attempts, until, tried)
            if served is None:
                served = await self._later(work, attempts, until)
            if served is not None:
                return served
            if time.monotonic() >= until:
                raise RequestError(handover.verdict(attempts))

    async def _at_once(
        self,
        work: Work[T],
        attempts: dict[str, AccountFailedError],
        until: float,
        tried: str,
    ) -> Served[T] | None:
        """Ask every account once whether it can make the call now."""
        for desk in self._own(tried):
            try:
                return Served(desk.account, await work.here(desk, None))
            except AccountFailedError as error:
                self._failed(work.call, error, attempts)
        for account in handover.others(self._accounts(), list(attempts)):
            if handover.was_tried(tried, account) or account in self._desks:
                continue
            try:
                return Served(account, await work.there(account, list(attempts), until))
            except AccountFailedError as error:
                self._failed(work.call, error, attempts)
        return None

    async def _later(
        self, work: Work[T], attempts: dict[str, AccountFailedError], until: float
    ) -> Served[T] | None:
        """Wait for what a limit stood in the way of; None when all should be asked again.

        Raises:
            RequestError: Waiting does not help.
        """
        waits = {
            account: error.retry_after_seconds or 0.0
            for account, error in attempts.items()
            if error.failure == Failure.LIMITED
        }
        own = [account for account in waits if account in self._desks]
        if own:
            desk = self._desks[min(own, key=waits.__getitem__)]
            try:
                return Served(desk.account, await work.here(desk, until))
            except AccountFailedError as error:
                self._failed(work.call, error, attempts)
                if error.failure == Failure.CROWDED:
                    raise RequestError(handover.verdict(attempts)) from error
            return None
        seconds = max(min(waits.values(), default=0.0), _SHORTEST_SLEEP_SECONDS)
        if not waits or time.monotonic() + seconds >= until:
            raise RequestError(handover.verdict(attempts))
        await asyncio.sleep(seconds)
        return None

    def _own(self, tried: str) -> list[AccountDesk]:
        """The accounts of this process, each first in turn."""
        desks = [
            desk
            for name, desk in sorted(self._desks.items())
            if not handover.was_tried(tried, name)
        ]
        first = next(self._turns) % max(len(desks), 1)
        return desks[first:] + desks[:first]

    def _failed(
        self, call: Call, error: AccountFailedError, attempts: dict[str, AccountFailedError]
    ) -> None:
        attempts[error.account] = error
        metrics.FAILOVERS_TOTAL.labels(call=call.value, cause=error.failure).inc()
        log.debug(
            "request.failed_over",
            call=call.value,
            account=error.account,
            cause=error.failure,
            reason=error.reason,
        )
