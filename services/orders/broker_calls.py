"""One call that changes orders: made at most once, its outcome told to breaker, limits, session."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import msgspec

from libs.common import logs
from libs.common.bus.lease import Lease
from libs.common.contracts.orders import AccountEvent
from libs.common.domain.order_answers import CallFailure
from libs.common.kite.orders import OrderBroker, OrderCallError
from libs.common.resilience.circuit_breaker import BreakerState, CircuitBreaker
from services.orders import metrics
from services.orders.account_session import AccountSession
from services.orders.checkpoint import Checkpoint, Step, pass_by
from services.orders.domain.intent import Verb
from services.orders.domain.outcomes import BrokerHealth, Outcome, classify, health
from services.orders.domain.send_budget import SendBudget

_BREAKER_LEVELS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_BREAKER_EVENTS = {
    BreakerState.OPEN: (
        "breaker_opened",
        "the broker does not answer: nothing is sent for a while, what waits stays in order",
    ),
    BreakerState.HALF_OPEN: ("breaker_probing", "a few requests try whether the broker is back"),
    BreakerState.CLOSED: ("breaker_closed", "the broker answers again"),
}
# Long enough for a request to leave, in tests that kill the process before the answer.
_LEAVING_SECONDS = 0.5

log = logs.get_logger(__name__)


class CallEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended.

    Attributes:
        order_id: The broker's number; None when it failed.
        outcome: What a failure proves; None for a success.
        failure: What was seen.
    """

    order_id: str | None = None
    outcome: Outcome | None = None
    failure: CallFailure | None = None


class BrokerCalls:
    """Makes the calls of one account.

    Args:
        account: Whose.
        lease: Asked right before each call: without it nothing leaves.
        session: Of the account.
        budget: The limits.
        breaker: Of the endpoints that change orders.
        report: Tells what concerns the account as a whole.
        checkpoint: See `checkpoint.Step`.
        unsafe_resend: Call again when a call failed, as if that proved that nothing was sent: for
            the test that proves that the proof notices.
    """

    def __init__(
        self,
        account: str,
        *,
        lease: Lease,
        session: AccountSession,
        budget: SendBudget,
        breaker: CircuitBreaker,
        report: Callable[[AccountEvent], None],
        checkpoint: Checkpoint = pass_by,
        unsafe_resend: bool = False,
    ) -> None:
        self.session = session
        self.budget = budget
        self.breaker = breaker
        self._account = account
        self._lease = lease
        self._report = report
        self._checkpoint = checkpoint
        self._unsafe_resend = unsafe_resend
        self._told = BreakerState.CLOSED
        metrics.BREAKER.labels(account=account).set(0)

    def acquire(self) -> int | None:
        """Ask the breaker for a call; None when it must wait. Follow it by `make` or `release`."""
        term = self.breaker.try_acquire(time.monotonic_ns())
        self._tell_breaker()
        return term

    def release(self, term: int) -> None:
        """The call was not made after all."""
        self.breaker.released(term)

    async def make(
        self,
        verb: Verb,
        term: int,
        call: Callable[[OrderBroker], Awaitable[str]],
        *,
        stored_at_ns: int = 0,
    ) -> CallEnd:
        """Make a call whose `sending` the ledger has committed.

        Args:
            verb: What it does.
            term: What `acquire` gave.
            call: The call itself.
            stored_at_ns: When its command was stored, epoch ns, for the figures; 0 for unknown.
        """
        self._checkpoint(Step.SENDING_NOT_SENT)
        broker = self.session.broker
        if not self._lease.is_valid():
            # Another worker may hold the account already and take this one for unknown.
            metrics.FENCED_TOTAL.labels(account=self._account).inc()
            return self._not_made(term, "LeaseLost", "the account was taken over meanwhile")
        if broker is None:
            return self._not_made(term, "SessionGone", "the session was taken away meanwhile")
        started = time.monotonic()
        if stored_at_ns:
            metrics.INTAKE_TO_SEND_SECONDS.observe(max(0, time.time_ns() - stored_at_ns) / 1e9)
        try:
            order_id = await self._watched(call, broker)
        except OrderCallError as error:
            self._checkpoint(Step.ANSWERED_NOT_COMMITTED)
            return self._failed(verb, term, broker, error.failure)
        finally:
            metrics.CALL_SECONDS.labels(call=verb.value).observe(time.monotonic() - started)
        self._checkpoint(Step.ANSWERED_NOT_COMMITTED)
        metrics.CALLS_TOTAL.labels(account=self._account, call=verb.value, outcome="ok").inc()
        self.breaker.succeeded(term)
        self._tell_breaker()
        return CallEnd(order_id=order_id)

    async def _watched(
        self, call: Callable[[OrderBroker], Awaitable[str]], broker: OrderBroker
    ) -> str:
        if self._unsafe_resend:
            with contextlib.suppress(OrderCallError):
                return await call(broker)
        if self._checkpoint is pass_by:
            return await call(broker)
        under_way = asyncio.ensure_future(call(broker))
        await asyncio.wait({under_way}, timeout=_LEAVING_SECONDS)
        if not under_way.done():
            self._checkpoint(Step.SENT_NOT_ANSWERED)
        return await under_way

    def _not_made(self, term: int, exception: str, message: str) -> CallEnd:
        self.breaker.released(term)
        failure = CallFailure(exception, None, message, request_sent=False)
        return CallEnd(outcome=Outcome.NOT_SENT, failure=failure)

    def _failed(self, verb: Verb, term: int, broker: OrderBroker, failure: CallFailure) -> CallEnd:
        outcome = classify(failure)
        metrics.CALLS_TOTAL.labels(
            account=self._account, call=verb.value, outcome=outcome.value
        ).inc()
        log.warning(
            "order.call_failed",
            account=self._account,
            call=verb.value,
            outcome=outcome.value,
            exception=failure.exception,
            http_status=failure.code,
            reason=failure.message,
        )
        match health(outcome):
            case BrokerHealth.ANSWERED:
                self.breaker.succeeded(term)
            case BrokerHealth.FAILED:
                self.breaker.failed(term, time.monotonic_ns())
            case BrokerHealth.SILENT:
                self.breaker.released(term)
        self._tell_breaker()
        if outcome is Outcome.LIMITED:
            self.budget.refused(time.time_ns())
        elif outcome is Outcome.SESSION_REFUSED:
            self.refuse_session(broker, failure.message)
        return CallEnd(outcome=outcome, failure=failure)

    def refuse_session(self, broker: OrderBroker, reason: str) -> None:
        """The broker refused the session: nothing leaves until there is a newer one."""
        if self.session.refuse(broker, reason):
            self._report(
                AccountEvent(
                    account=self._account,
                    kind="session_refused",
                    code="session_refused",
                    message="the broker refused the session: orders wait for a newer one",
                    evidence={"answer": reason},
                    at_ns=time.time_ns(),
                )
            )

    def _tell_breaker(self) -> None:
        state = self.breaker.state
        if state is self._told:
            return
        self._told = state
        metrics.BREAKER.labels(account=self._account).set(_BREAKER_LEVELS[state])
        kind, message = _BREAKER_EVENTS[state]
        log.warning("breaker.changed", account=self._account, state=state.value)
        self._report(
            AccountEvent(
                account=self._account,
                kind=kind,
                code="orders",
                message=message,
                evidence={"failures": self.breaker.failures},
                at_ns=time.time_ns(),
            )
        )
