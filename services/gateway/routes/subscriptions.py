"""REST for subscriptions: claim, withdraw and list instruments, one by one or thousands at once."""

from collections import Counter
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.contracts import subjects
from libs.common.domain.instruments import Kind
from services.gateway.domain.parameters import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    OFFSET_MAX,
    read_choice,
    read_date,
    read_name,
    read_whole,
    refuse_unknown,
)
from services.gateway.domain.subscription_requests import (
    DEFAULT_SUBSCRIBER,
    BulkClaims,
    BulkWithdrawals,
    Claim,
    Outcome,
    OutcomeKind,
    RequestedMode,
    Withdrawal,
)
from services.gateway.errors import BadParameterError, RefusedItemError
from services.gateway.routes.body import read_json
from services.gateway.routes.rest import JsonResponse, error_response, key_check, paged
from services.gateway.settings import GatewaySettings
from services.gateway.subscriptions import SubscriptionFilter, Subscriptions

PATH: Final = "/subscriptions"
SINGLE_BYTES_MAX: Final = 16 * 1024
# Nine thousand items with every field at its longest take half of it.
BULK_BYTES_MAX: Final = 8 * 1024 * 1024
STATES: Final = ("pending", "live", "no_data", "rejected")
STATUSES: Final = ("active", "inactive", "any")
ORIGINS: Final = ("explicit", "window", "priced_with")

_TOKEN_MAX: Final = 0xFFFFFFFF
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "state": STATES,
    "status": STATUSES,
    "mode": tuple(RequestedMode),
    "kind": tuple(Kind),
    "origin": ORIGINS,
}
_NAMES: Final = ("account", "underlying", "segment", "subscriber")
_FILTERS: Final = frozenset({*_CHOICES, *_NAMES, "expiry", "limit", "offset"})

log = logs.get_logger(__name__)


class SubscriptionRoutes:
    """The routes, and the hint to control that something changed.

    Args:
        subscriptions: The tables.
        bus: Where the hint goes.
        settings: Says whether an API key is wanted.
    """

    def __init__(self, subscriptions: Subscriptions, bus: Bus, settings: GatewaySettings) -> None:
        self._subscriptions = subscriptions
        self._bus = bus
        self._require_key = key_check(settings)

    def routes(self) -> list[Route]:
        """Everything under `/subscriptions`."""
        return [
            Route(PATH, self.page, methods=["GET"]),
            Route(PATH, self.subscribe, methods=["POST"]),
            Route(f"{PATH}/bulk", self.subscribe_many, methods=["POST"]),
            Route(f"{PATH}/bulk", self.unsubscribe_many, methods=["DELETE"]),
            # For clients and proxies that send no body with DELETE.
            Route(f"{PATH}/bulk/delete", self.unsubscribe_many, methods=["POST"]),
            Route(f"{PATH}/{{token}}", self.get, methods=["GET"]),
            Route(f"{PATH}/{{token}}", self.unsubscribe, methods=["DELETE"]),
        ]

    async def page(self, request: Request) -> Response:
        """What streams and what was subscribed."""
        self._require_key(request)
        return paged(await self._subscriptions.page(read_subscription_filter(request)))

    async def get(self, request: Request) -> Response:
        """One instrument's subscription."""
        self._require_key(request)
        refuse_unknown(request.query_params)
        token = _token(request)
        found = await self._subscriptions.get(token)
        if found is None:
            return error_response(
                404, "not_found", f"instrument {token} is neither subscribed nor planned", "token"
            )
        return JsonResponse(found)

    async def subscribe(self, request: Request) -> Response:
        """Claim one instrument: 201 when the claim is new, 200 when it was there."""
        self._require_key(request)
        refuse_unknown(request.query_params)
        claim = await read_json(request, Claim, bytes_max=SINGLE_BYTES_MAX)
        [outcome] = await self._subscriptions.subscribe([claim])
        if outcome.error is not None:
            raise RefusedItemError(outcome.error.code, outcome.error.message, outcome.error.field)
        await self._wake([outcome])
        return await self._one(outcome)

    async def unsubscribe(self, request: Request) -> Response:
        """Withdraw a subscriber's claims of one instrument; repeating it changes nothing."""
        self._require_key(request)
        refuse_unknown(request.query_params, {"mode", "subscriber"})
        query = request.query_params
        withdrawal = _converted(
            {
                "instrument_token": _token(request),
                "requested_mode": read_choice("mode", query.get("mode"), tuple(RequestedMode)),
                "subscriber": query.get("subscriber", DEFAULT_SUBSCRIBER),
            }
        )
        [outcome] = await self._subscriptions.unsubscribe([withdrawal])
        await self._wake([outcome])
        return await self._one(outcome)

    async def subscribe_many(self, request: Request) -> Response:
        """Claim up to 9000 instruments; each has its own outcome."""
        self._require_key(request)
        refuse_unknown(request.query_params)
        body = await read_json(request, BulkClaims, bytes_max=BULK_BYTES_MAX)
        return await self._many(await self._subscriptions.subscribe(body.instruments))

    async def unsubscribe_many(self, request: Request) -> Response:
        """Withdraw up to 9000 claims; each has its own outcome."""
        self._require_key(request)
        refuse_unknown(request.query_params)
        body = await read_json(request, BulkWithdrawals, bytes_max=BULK_BYTES_MAX)
        return await self._many(await self._subscriptions.unsubscribe(body.instruments))

    async def _one(self, outcome: Outcome) -> Response:
        token = outcome.instrument_token
        row = None if token is None else await self._subscriptions.get(token)
        status = 201 if outcome.outcome is OutcomeKind.SUBSCRIBED else 200
        return JsonResponse({"outcome": outcome.outcome.value, "subscription": row}, status)

    async def _many(self, outcomes: list[Outcome]) -> Response:
        await self._wake(outcomes)
        counts = Counter(outcome.outcome for outcome in outcomes)
        return JsonResponse(
            {
                "items": [msgspec.to_builtins(outcome) for outcome in outcomes],
                "total": len(outcomes),
                "counts": {kind.value: counts[kind] for kind in OutcomeKind if counts[kind]},
            }
        )

    async def _wake(self, outcomes: list[Outcome]) -> None:
        """Tell control that there is something to plan; if that is lost, its next round sees it."""
        still = {OutcomeKind.UNCHANGED, OutcomeKind.REJECTED}
        if all(outcome.outcome in still for outcome in outcomes):
            return
        if not await self._bus.publish(subjects.WAKE_CONTROL, b""):
            log.info("wake.dropped")


def read_subscription_filter(request: Request) -> SubscriptionFilter:
    """Read the query's parameters.

    Raises:
        BadParameterError: Names the parameter.
    """
    refuse_unknown(request.query_params, _FILTERS)
    query = request.query_params
    chosen = {name: read_choice(name, query.get(name), known) for name, known in _CHOICES.items()}
    named = {name: read_name(name, query.get(name)) for name in _NAMES}
    status = chosen["status"] or "active"
    return SubscriptionFilter(
        state=chosen["state"],
        status=None if status == "any" else status,
        requested_mode=chosen["mode"],
        account_id=named["account"],
        underlying=named["underlying"],
        expiry=read_date("expiry", query.get("expiry")),
        kind=chosen["kind"],
        segment=named["segment"],
        origin=chosen["origin"],
        subscriber=named["subscriber"],
        limit=read_whole("limit", query.get("limit"), default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX),
        offset=read_whole("offset", query.get("offset"), default=0, low=0, high=OFFSET_MAX),
    )


def _token(request: Request) -> int:
    return read_whole("token", request.path_params["token"], default=0, low=1, high=_TOKEN_MAX)


def _converted(values: dict[str, Any]) -> Withdrawal:
    try:
        return msgspec.convert(values, Withdrawal)
    except msgspec.ValidationError as error:
        # The others were read above.
        raise BadParameterError(
            "subscriber", "must be 1 to 64 of letters, digits and ._:- , or * for everybody"
        ) from error
