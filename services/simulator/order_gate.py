"""The gate that every request about an order passes: where its faults strike."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.simulator import metrics, transports
from services.simulator.access import LONGEST_BODY_BYTES, api_key_of, refusal
from services.simulator.domain.order_faults import Ending, OrderFaultBook, Verb, Verdict
from services.simulator.domain.sessions import Sessions
from services.simulator.errors import OrderError, TooManyRequestsError
from services.simulator.protocols import TRANSPORT

HOLD_SECONDS: Final = "hold_seconds"
"""Where the state of a request says for how long its order stays out of sight."""

_VERBS: Final = {"POST": Verb.PLACE, "PUT": Verb.MODIFY, "DELETE": Verb.CANCEL}
# How Kite worded it in the one case that is on record.
_TIMED_OUT: Final = (
    "Your order request timed out. Please check the order book before placing it again."
)
# A reset is seen by the protocol in the loop's next turn; before, it would answer with a 500.
_TURNS_UNTIL_GONE: Final = 3


class OrderGate:
    """ASGI middleware that lets faults strike requests to place, modify or cancel an order.

    Args:
        app: What is wrapped.
        faults: The faults in force.
        sessions: A fault may end them.
    """

    def __init__(self, app: ASGIApp, faults: OrderFaultBook, sessions: Sessions) -> None:
        self._app = app
        self._faults = faults
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        verb = None
        if scope["type"] == "http" and scope["path"].startswith("/orders/"):
            verb = _VERBS.get(scope["method"])
        if verb is None:
            await self._app(scope, receive, send)
            return
        api_key = api_key_of(Request(scope))
        verdict = self._faults.strike(verb, api_key)
        if verdict is None:
            await self._app(scope, receive, send)
            return
        # A caller may hang up while its order waits; what had arrived by then is carried out.
        receive = await _arrived(receive)
        await asyncio.sleep(verdict.wait_seconds)
        answer: list[Message] = []
        if verdict.accept:
            scope["state"][HOLD_SECONDS] = verdict.hold_seconds
            answer = await self._carry_out(scope, receive)
            if answer[0]["status"] != 200:
                self._faults.give_back(verdict)
                await _send_all(answer, send)
                return
        metrics.FAULTS_TOTAL.labels(kind=verdict.kind.value).inc()
        await asyncio.sleep(verdict.answer_seconds)
        match verdict.ending:
            case Ending.ANSWER:
                await _send_all(answer, send)
            case Ending.RESET:
                transports.reset(scope["state"][TRANSPORT])
                for _ in range(_TURNS_UNTIL_GONE):
                    await asyncio.sleep(0)
            case _:
                await _substitute(verdict)(scope, receive, send)
        if verdict.kills_tokens and api_key is not None:
            self._sessions.kill_tokens(api_key)

    async def _carry_out(self, scope: Scope, receive: Receive) -> list[Message]:
        """Let the request through and keep the answer."""
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, keep)
        return answer


async def _arrived(receive: Receive) -> Receive:
    """Wait for the request's body, and give something that hands it out again."""
    messages: list[Message] = []
    size = 0
    while size <= LONGEST_BODY_BYTES:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    waiting = iter(messages)

    async def again() -> Message:
        return next(waiting, None) or await receive()

    return again


async def _send_all(messages: list[Message], send: Send) -> None:
    for message in messages:
        await send(message)


def _substitute(verdict: Verdict) -> Response:
    """Give the answer that stands in for the one deserved."""
    match verdict.ending:
        case Ending.TIMED_OUT:
            return refusal(OrderError(_TIMED_OUT))
        case Ending.LIMIT if not verdict.html:
            return refusal(TooManyRequestsError())
        case Ending.LIMIT:
            status, words = 429, "Too Many Requests"
        case _:
            status, words = verdict.status, _REASONS.get(verdict.status, "Server Error")
    page = f"<html><head><title>{status} {words}</title></head><body><h1>{status} {words}</h1>"
    return Response(f"{page}</body></html>", status, media_type="text/html")


_REASONS: Final = {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}
