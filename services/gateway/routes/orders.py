"""REST for orders: commands that are stored once, the ledger, what people decide, and postbacks."""

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.contracts.orders import (
    CancelOrder,
    OrderAction,
    OrderCommand,
    OrderControls,
    OrderRequest,
)
from libs.common.domain.ulid import RANDOM_BYTES, ulid
from services.gateway.directory import Directory
from services.gateway.domain.order_requests import (
    KINDS,
    OURS,
    Batch,
    KillSwitchBody,
    ResolveBody,
    batch_keys,
    check_key,
    check_resolution,
    check_target,
    command_fields,
    read_account,
    read_key,
    read_limit,
    read_order_filter,
    read_trade_filter,
    read_wait_ms,
    take_verb,
)
from services.gateway.domain.parameters import refuse_unknown
from services.gateway.errors import (
    AccountsUnreadError,
    AmbiguousTaskError,
    BadParameterError,
    CatalogUnavailableError,
    IdempotencyKeyError,
    NotFoundError,
    OrderConflictError,
    OrderNotAcceptedError,
    OrdersRefusedError,
    OrdersUnavailableError,
    OrderUncertainError,
    PostbackRefusedError,
    PostbackUnclaimedError,
    UnknownAccountError,
)
from services.gateway.order_book import OrderBook, Row
from services.gateway.orders import OrderDesk, Taken
from services.gateway.postbacks import BODY_BYTES_MAX as POSTBACK_BYTES_MAX
from services.gateway.postbacks import PostbackDesk
from services.gateway.routes.accounts import shown_orders
from services.gateway.routes.body import converted, read_bytes, read_json, read_value
from services.gateway.routes.rest import JsonResponse, error_response, key_check, paged
from services.gateway.settings import GatewaySettings

KEY_HEADER: Final = "Idempotency-Key"
SINGLE_BYTES_MAX: Final = 16 * 1024
# A hundred orders with every field at its longest take half of it.
BATCH_BYTES_MAX: Final = 256 * 1024
_SNAPSHOTS: Final = ("positions", "holdings", "margins")
_RETRY_SECONDS: Final = "2"
_MILLISECONDS_NS: Final = 1_000_000
_STATUS_OF: Final = {"not_found": 404, "conflict": 409, "rate_limited": 429}

Endpoint = Callable[[Request], Awaitable[Response]]


class OrderRoutes:
    """The routes under `/orders` and what belongs to them.

    Args:
        desk: Takes commands.
        book: The ledger.
        postbacks: Takes the broker's postbacks.
        directory: Which accounts exist.
        settings: Says whether an API key is wanted.
    """

    def __init__(
        self,
        desk: OrderDesk,
        book: OrderBook,
        postbacks: PostbackDesk,
        directory: Directory,
        settings: GatewaySettings,
    ) -> None:
        self._desk = desk
        self._book = book
        self._postbacks = postbacks
        self._directory = directory
        self._require_key = key_check(settings)

    def routes(self) -> list[Route]:
        """Everything that is about orders."""
        one = "/accounts/{account}"
        return [
            *(Route(f"/orders/{verb}", self._command(verb), methods=["POST"]) for verb in KINDS),
            Route("/orders/batch", self.batch, methods=["POST"]),
            Route("/orders/unknown", self.unknown, methods=["GET"]),
            Route("/orders/dead", self.dead, methods=["GET"]),
            Route("/orders", self.tasks, methods=["GET"]),
            Route("/orders/{task_id}", self.task, methods=["GET"]),
            Route("/orders/{task_id}/resolve", self.resolve, methods=["POST"]),
            Route("/trades", self.trades, methods=["GET"]),
            *(Route(f"/{kind}", self._snapshots(kind), methods=["GET"]) for kind in _SNAPSHOTS),
            Route(f"{one}/limits", self.limits, methods=["GET"]),
            Route(f"{one}/kill-switch", self.kill_switch, methods=["GET"]),
            Route(f"{one}/kill-switch", self.switch, methods=["POST"]),
            Route("/postback", self.postback, methods=["POST"]),
        ]

    # -- commands --------------------------------------------------------------------------------

    def _command(self, verb: str) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            self._require_key(request)
            refuse_unknown(request.query_params, {"wait"})
            wait_ms = read_wait_ms(request.query_params.get("wait"))
            given = read_key(request.headers.getlist(KEY_HEADER))
            key = given or new_key()
            request.state.idempotency_key = key
            body = await read_value(request, bytes_max=SINGLE_BYTES_MAX)
            command = self._read(verb, body, key)
            taken = await self._desk.submit(
                command, is_callers_key=given is not None, wait_ms=wait_ms
            )
            return JsonResponse(_shown(taken), _status(taken), {KEY_HEADER: key})

        return endpoint

    async def batch(self, request: Request) -> Response:
        """Up to a hundred commands, stored one after the other, each with its own answer.

        What is wrong with one of them refuses all, before anything is stored: half of a spread is
        worse than none. Once storing has begun the first that cannot be stored ends it, since a
        later one may rely on it.
        """
        self._require_key(request)
        refuse_unknown(request.query_params)
        given = read_key(request.headers.getlist(KEY_HEADER))
        key = given or new_key()
        request.state.idempotency_key = key
        body = await read_json(request, Batch, bytes_max=BATCH_BYTES_MAX)
        commands = []
        for index, (value, task_id) in enumerate(
            zip(body.orders, batch_keys(key, len(body.orders)), strict=True)
        ):
            within = f"orders[{index}]"
            verb, fields = take_verb(value, within)
            commands.append(self._read(verb, fields, task_id, within))
        items = await self._submit_all(commands, is_callers_key=given is not None)
        stored = all(item["error"] is None for item in items)
        content = {"idempotency_key": key, "items": items, "total": len(items)}
        return JsonResponse(content, 202 if stored else 207, {KEY_HEADER: key})

    def _read(self, verb: str, body: Any, task_id: str, within: str = "") -> OrderCommand:
        fields = command_fields(verb, body, task_id=task_id, now_ns=time.time_ns(), within=within)
        command = converted(fields, KINDS[verb], within=within, hidden=OURS)
        check_target(command, within)
        self._know(command.account)
        return command

    def _know(self, account: str) -> None:
        if not self._directory.accounts_are_read:
            raise AccountsUnreadError
        if account not in self._directory.accounts:
            raise UnknownAccountError(account)

    async def _submit_all(
        self, commands: list[OrderCommand] | list[CancelOrder], *, is_callers_key: bool
    ) -> list[Row]:
        items: list[Row] = []
        broken: str | None = None
        for index, command in enumerate(commands):
            item: Row = {"index": index, "task_id": command.task_id, "outcome": None, "task": None}
            items.append(item)
            item["error"] = None
            if broken is not None:
                item["error"] = {
                    "code": "not_attempted",
                    "message": f"nothing was accepted: {broken}, which comes before it, failed",
                    "field": None,
                }
                item["status"] = 503
                continue
            try:
                taken = await self._desk.submit(command, is_callers_key=is_callers_key)
            except OrderConflictError as error:
                item |= {"status": 409, "error": _error("conflict", error, KEY_HEADER)}
            except OrderNotAcceptedError as error:
                item |= {"status": 503, "error": _error(error.code, error)}
                broken = command.task_id
            except OrderUncertainError as error:
                item |= {"status": 504, "error": _error("uncertain", error)}
                broken = command.task_id
            else:
                item |= {**_shown(taken), "status": _status(taken)}
                del item["idempotency_key"]
        return items

    # -- the ledger ------------------------------------------------------------------------------

    async def tasks(self, request: Request) -> Response:
        """Tasks, newest first, by cursor."""
        self._require_key(request)
        items, cursor = await self._book.tasks(read_order_filter(request.query_params))
        return JsonResponse({"items": items, "next_cursor": cursor})

    async def task(self, request: Request) -> Response:
        """One task with its requests and everything that happened to it."""
        self._require_key(request)
        account, task_id = self._which(request)
        return JsonResponse(await self._find(account, task_id))

    async def _find(self, account: str | None, task_id: str) -> Row:
        found = await self._book.task(task_id, account)
        if found is None and account is not None:
            found = await self._desk.waiting(account, task_id)
        if found is None:
            where = "" if account is None else f" of account {account}"
            hint = "" if account else "; one that was accepted a moment ago needs ?account="
            raise NotFoundError("task_id", f"no task{where} has this key{hint}")
        return found

    async def resolve(self, request: Request) -> Response:
        """Have the worker follow what a person decided about an unknown outcome."""
        self._require_key(request)
        account, task_id = self._which(request)
        body = await read_json(request, ResolveBody, bytes_max=SINGLE_BYTES_MAX)
        check_resolution(body)
        if account is None:
            account = str((await self._find(None, task_id))["account"])
        result = await self._desk.ask(
            account,
            OrderRequest(
                action=OrderAction.RESOLVE,
                task_id=task_id,
                leg=body.leg,
                resolution=body.resolution,
                order_id=body.order_id,
                by=body.by,
                reason=body.reason,
            ),
        )
        return JsonResponse({"account": account, "task_id": task_id, **result})

    async def unknown(self, request: Request) -> Response:
        """Requests whose outcome nobody knows."""
        self._require_key(request)
        account, limit = _account_and_limit(request)
        return paged(await self._book.unknown(account, limit))

    async def dead(self, request: Request) -> Response:
        """Commands that were not and will not be executed."""
        self._require_key(request)
        account, limit = _account_and_limit(request)
        return paged(await self._book.dead(account, limit))

    async def trades(self, request: Request) -> Response:
        """Trades as the broker told them."""
        self._require_key(request)
        return paged(await self._book.trades(read_trade_filter(request.query_params)))

    def _snapshots(self, kind: str) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            self._require_key(request)
            refuse_unknown(request.query_params, {"account"})
            account = read_account(request.query_params.get("account"))
            return paged(await self._book.snapshots(kind, account))

        return endpoint

    # -- accounts --------------------------------------------------------------------------------

    async def limits(self, request: Request) -> Response:
        """The limits in force and what is used of them, by the worker that holds the account."""
        self._require_key(request)
        refuse_unknown(request.query_params)
        account = self._account_in_path(request)
        result = await self._desk.ask(account, OrderRequest(action=OrderAction.LIMITS))
        return JsonResponse({"account": account, **result})

    async def kill_switch(self, request: Request) -> Response:
        """Whether the kill switch is on, and how the account's orders fare."""
        self._require_key(request)
        refuse_unknown(request.query_params)
        account = self._account_in_path(request)
        controls = await self._desk.controls(account)
        status = shown_orders(self._directory.orders.get(account))
        return JsonResponse({**_switch(account, controls), "orders": status})

    async def switch(self, request: Request) -> Response:
        """Turn the kill switch on or off, and have open orders cancelled if that is wanted."""
        self._require_key(request)
        refuse_unknown(request.query_params)
        account = self._account_in_path(request)
        body = await read_json(request, KillSwitchBody, bytes_max=SINGLE_BYTES_MAX)
        if body.cancel_open_orders and not body.on:
            raise BadParameterError(
                "cancel_open_orders", "only when the switch is turned on: new orders would pass it"
            )
        answer = _switch(account, await self._desk.switch(account, body))
        if not body.cancel_open_orders:
            return JsonResponse(answer)
        # The switch stands whatever becomes of these; an answer that hid a failure would lie.
        try:
            commands = await self._desk.cancels(account, user=body.by, key=f"kill-{new_key()}")
        except CatalogUnavailableError as error:
            answer["cancels"] = []
            answer["cancel_error"] = _error(
                "database_unavailable", f"the switch is set, but no order was cancelled: {error}"
            )
            return JsonResponse(answer, 207)
        answer["cancels"] = await self._submit_all(commands, is_callers_key=False)
        done = all(item["error"] is None for item in answer["cancels"])
        return JsonResponse(answer, 200 if done else 207)

    # -- the broker ------------------------------------------------------------------------------

    async def postback(self, request: Request) -> Response:
        """Take a postback; the broker has no API key, its checksum proves it to the worker."""
        refuse_unknown(request.query_params)
        await self._postbacks.take(await read_bytes(request, bytes_max=POSTBACK_BYTES_MAX))
        return JsonResponse({"accepted": True})

    # -- shared ----------------------------------------------------------------------------------

    @staticmethod
    def _which(request: Request) -> tuple[str | None, str]:
        refuse_unknown(request.query_params, {"account"})
        task_id = request.path_params["task_id"]
        try:
            check_key(task_id)
        except IdempotencyKeyError as error:
            raise BadParameterError("task_id", error.message) from error
        return read_account(request.query_params.get("account")), task_id

    def _account_in_path(self, request: Request) -> str:
        account: str = request.path_params["account"]
        read_account(account)
        self._know(account)
        return account


def new_key() -> str:
    """A key for a caller who gave none."""
    return ulid(time.time_ns() // _MILLISECONDS_NS, secrets.token_bytes(RANDOM_BYTES))


def _status(taken: Taken) -> int:
    """202: stored, and there will be more to tell. 200: this is how it went."""
    return 200 if taken.is_settled else 202


def _shown(taken: Taken) -> Row:
    return {
        "idempotency_key": taken.task["task_id"],
        "outcome": "accepted" if taken.is_new else "known",
        "task": taken.task,
    }


def _switch(account: str, controls: OrderControls | None) -> Row:
    shown = {"kill_switch": False, "reason": "", "by": None, "at_ns": None}
    return {"account": account, **(shown if controls is None else msgspec.to_builtins(controls))}


def _account_and_limit(request: Request) -> tuple[str | None, int]:
    refuse_unknown(request.query_params, {"account", "limit"})
    query = request.query_params
    return read_account(query.get("account")), read_limit(query)


def _error(code: str, error: Exception | str, field: str | None = None) -> Row:
    return {"code": code, "message": str(error), "field": field}


# -- errors --------------------------------------------------------------------------------------


def _answer(request: Request, status: int, code: str, error: Exception, **more: Any) -> Response:
    """The one shape of every error; the key comes back with it, for a repetition to name."""
    field: str | None = more.pop("field", None)
    key: str | None = getattr(request.state, "idempotency_key", None)
    if key is not None:
        more[KEY_HEADER.lower().replace("-", "_")] = key
    return error_response(status, code, str(error), field, **more)


async def _bad_key(request: Request, error: Exception) -> Response:
    return _answer(request, 400, "bad_idempotency_key", error, field=KEY_HEADER)


async def _unknown_account(request: Request, error: Exception) -> Response:
    return _answer(request, 404, "unknown_account", error, field="account")


async def _accounts_unread(request: Request, error: Exception) -> Response:
    return _answer(request, 503, "accounts_unread", error, retry_after=_RETRY_SECONDS)


async def _conflict(request: Request, error: Exception) -> Response:
    return _answer(request, 409, "conflict", error, field=KEY_HEADER)


async def _ambiguous(request: Request, error: Exception) -> Response:
    return _answer(request, 409, "ambiguous", error, field="account")


async def _not_accepted(request: Request, error: Exception) -> Response:
    assert isinstance(error, OrderNotAcceptedError)  # noqa: S101  # Registered for this type only.
    return _answer(request, 503, error.code, error, retry_after=_RETRY_SECONDS)


async def _uncertain(request: Request, error: Exception) -> Response:
    # No Retry-After: it may be repeated, but with the key alone.
    return _answer(request, 504, "uncertain", error, field=KEY_HEADER)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, OrdersRefusedError)  # noqa: S101  # As above.
    found = error.error
    return _answer(request, _STATUS_OF.get(found.code, 422), found.code, error, field=found.field)


async def _unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, OrdersUnavailableError)  # noqa: S101  # As above.
    if error.code == "timeout":
        return _answer(request, 504, error.code, error)
    return _answer(request, 503, error.code, error, retry_after=_RETRY_SECONDS)


async def _forged(request: Request, error: Exception) -> Response:
    return _answer(request, 403, "checksum", error, field="checksum")


async def _unclaimed(request: Request, error: Exception) -> Response:
    return _answer(request, 503, "no_worker", error, retry_after=_RETRY_SECONDS)


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    IdempotencyKeyError: _bad_key,
    UnknownAccountError: _unknown_account,
    AccountsUnreadError: _accounts_unread,
    OrderConflictError: _conflict,
    AmbiguousTaskError: _ambiguous,
    OrderNotAcceptedError: _not_accepted,
    OrderUncertainError: _uncertain,
    OrdersRefusedError: _refused,
    OrdersUnavailableError: _unavailable,
    PostbackRefusedError: _forged,
    PostbackUnclaimedError: _unclaimed,
}
"""How the errors of these routes become HTTP answers."""
