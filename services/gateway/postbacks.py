"""Hands the broker's postbacks to the worker that can tell whether they are genuine."""

import time
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, NoResponderError, RequestTimeoutError
from libs.common.contracts import codec, subjects
from libs.common.contracts.orders import OrderReply, Postback
from services.gateway import metrics
from services.gateway.domain.limits import MessageRate
from services.gateway.errors import BodyError, PostbackRefusedError, PostbackUnclaimedError

BODY_BYTES_MAX: Final = 64 * 1024
ANSWER_SECONDS: Final = 5.0
_Text = Annotated[str, Meta(min_length=1, max_length=64)]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """What every postback has, read without judging it; the rest is the worker's."""

    user_id: Annotated[str, Meta(pattern="^[A-Za-z0-9]{1,32}$")]
    order_id: _Text
    order_timestamp: _Text
    checksum: Annotated[str, Meta(pattern="^[0-9A-Fa-f]{64}$")]


class PostbackDesk:
    """Requests to whoever holds the orders of the broker's user.

    The checksum is made with the account's api_secret, which the gateway does not have.

    Args:
        bus: The connection.
        per_second_max: More postbacks than this are not passed on; twice as many may come at once.
        answer_seconds: How long to wait for an answer.
    """

    def __init__(
        self, bus: Bus, *, per_second_max: float, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._bus = bus
        self._rate = MessageRate(per_second_max, time.monotonic())
        self._answer_seconds = answer_seconds

    async def take(self, body: bytes) -> None:
        """Pass a postback on and wait until it was taken.

        Raises:
            BodyError: It is no JSON object with user_id, order_id, order_timestamp and checksum, it
                is genuine but no row of an order, or there are too many.
            PostbackRefusedError: It does not come from the broker.
            PostbackUnclaimedError: Nobody holds the orders of that user, or nobody answers.
        """
        try:
            await self._take(body)
        except BodyError as error:
            outcome = "limited" if error.status == _TOO_MANY else "unread"
            metrics.POSTBACKS_TOTAL.labels(outcome=outcome).inc()
            raise
        except PostbackRefusedError:
            metrics.POSTBACKS_TOTAL.labels(outcome="refused").inc()
            raise
        except PostbackUnclaimedError:
            metrics.POSTBACKS_TOTAL.labels(outcome="unclaimed").inc()
            raise
        metrics.POSTBACKS_TOTAL.labels(outcome="accepted").inc()

    async def _take(self, body: bytes) -> None:
        if not self._rate.allows(time.monotonic()):
            raise BodyError(_TOO_MANY, "rate_limited", "more postbacks than a broker sends")
        try:
            head = msgspec.json.decode(body, type=_Head)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise BodyError(
                400, "invalid_json", f"the body is no postback of the broker: {error}"
            ) from error
        postback = Postback(body=msgspec.Raw(body), received_at_ns=time.time_ns())
        try:
            answer = await self._bus.request(
                subjects.rpc_postback_of(head.user_id),
                codec.to_json(postback),
                timeout_seconds=self._answer_seconds,
            )
            reply = codec.from_json(OrderReply, answer.payload)
        except NoResponderError as error:
            raise PostbackUnclaimedError("no worker holds the orders of this user now") from error
        except (RequestTimeoutError, BusUnavailableError, codec.DecodeError) as error:
            raise PostbackUnclaimedError("the worker did not answer") from error
        if reply.error is None:
            return
        if reply.error.code == "forbidden":
            raise PostbackRefusedError(reply.error.message)
        if reply.error.code == "bad_request":
            raise BodyError(400, "bad_request", reply.error.message)
        raise PostbackUnclaimedError(reply.error.message)


_TOO_MANY: Final = 429
