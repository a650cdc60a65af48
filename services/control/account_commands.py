"""Serves `rpc.accounts.v1` while this process leads: adds, rotates, switches, removes, logs in."""

import asyncio

from libs.common import logs
from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    AccountCommand,
    AccountReply,
    AccountSource,
    AccountState,
    AccountVerb,
    RpcError,
)
from libs.common.database import DatabaseUnavailableError
from libs.common.errors import RetryableError
from libs.common.kite.errors import KiteUnavailableError
from services.control import metrics
from services.control.account_store import AccountStore
from services.control.domain import account_command, accounts
from services.control.errors import AccountCommandError, NotLeadingError
from services.control.sessions import Sessions

QUEUE = "control"
# A login answers within some calls of seven seconds each.
DEADLINE_SECONDS = 40.0
_RUNNING_MAX = 16
_LOCKS = 64
_PAYLOAD_BYTES_MAX = 64 * 1024
_RETRY_SECONDS = 2.0

log = logs.get_logger(__name__)


class AccountCommands:
    """Carries out account commands, each in a task of its own, a bounded number at once.

    Args:
        bus: The connection.
        store: The table `accounts`.
        sessions: The accounts of this term.
    """

    def __init__(self, bus: Bus, store: AccountStore, sessions: Sessions) -> None:
        self._bus = bus
        self._store = store
        self._sessions = sessions
        self._tasks = OwnedTasks()
        self._running = 0
        # Commands for one account follow one another; two accounts may share a lock, no matter.
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then nobody answers, until the next leader does."""
        subscription = await self._bus.subscribe(
            subjects.RPC_ACCOUNTS,
            self._arrived,
            queue=QUEUE,
            pending_bytes_limit=_RUNNING_MAX * _PAYLOAD_BYTES_MAX,
        )
        try:
            failed = asyncio.create_task(self._tasks.failed.wait(), name="account-command-failed")
            stopped = asyncio.create_task(stop.wait(), name="account-commands-stop")
            try:
                await asyncio.wait((failed, stopped), return_when=asyncio.FIRST_COMPLETED)
            finally:
                failed.cancel()
                stopped.cancel()
        finally:
            await subscription.unsubscribe()
            await self._tasks.finish(patience_seconds=0.2)
        self._tasks.raise_failure()

    async def _arrived(self, message: BusMessage) -> None:
        if not message.reply:
            log.warning("account_command.without_reply")
            return
        if self._running >= _RUNNING_MAX:
            metrics.COMMANDS_TOTAL.labels(verb="unknown", outcome="unavailable").inc()
            busy = _error("unavailable", "too many account commands at once", _RETRY_SECONDS)
            await self._bus.publish(message.reply, codec.to_json(busy))
            return
        self._running += 1
        self._tasks.spawn(self._serve(message), name="account-command")

    async def _serve(self, message: BusMessage) -> None:
        try:
            verb, reply = await self._reply(message.payload)
            outcome = reply.error.code if reply.error is not None else "ok"
            metrics.COMMANDS_TOTAL.labels(verb=verb, outcome=outcome).inc()
            await self._bus.publish(message.reply, codec.to_json(reply))
        finally:
            self._running -= 1

    async def _reply(self, payload: bytes) -> tuple[str, AccountReply]:
        if len(payload) > _PAYLOAD_BYTES_MAX:
            return "unknown", _error("bad_request", f"more than {_PAYLOAD_BYTES_MAX} bytes")
        try:
            command = codec.from_json(AccountCommand, payload)
        except codec.DecodeError as error:
            # The decoder names paths and types, never values.
            return "unknown", _error("bad_request", error.reason)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                reply = await self._carry_out(command)
        except AccountCommandError as error:
            reply = _refusal(error, self._url_for(command))
        except DatabaseUnavailableError as error:
            reply = _error("unavailable", str(error), _RETRY_SECONDS)
        except NotLeadingError as error:
            reply = _error("no_leader", str(error), _RETRY_SECONDS)
        except KiteUnavailableError as error:
            reply = _error("unavailable", logs.redact(str(error)), _RETRY_SECONDS)
        except TimeoutError:
            reply = _error(
                "timeout", f"not done within {DEADLINE_SECONDS:g} s; what was begun may still hold"
            )
        except RetryableError as error:
            reply = _error("unavailable", str(error), _RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001  # Whoever asked gets an answer.
            log.error("account_command.failed", verb=command.verb.value, error=logs.kind_of(error))
            reply = _error("internal", "the command failed; the log of control says why")
        log.info(
            "account_command.done",
            verb=command.verb.value,
            account=command.account,
            outcome=reply.error.code if reply.error is not None else "ok",
        )
        return command.verb.value, reply

    async def _carry_out(self, command: AccountCommand) -> AccountReply:
        account_command.check(command)
        name = command.account
        async with self._locks[hash(name) % _LOCKS]:
            self._sessions.require_leading()
            if command.verb is AccountVerb.LOGIN:
                return AccountReply(state=await self._log_in(command))
            return AccountReply(state=await self._change(command))

    async def _change(self, command: AccountCommand) -> AccountState | None:
        name, verb = command.account, command.verb
        values = account_command.values(command)
        if verb is AccountVerb.ADD:
            self._refuse_elsewhere(name, taken=True)
            await self._store.add(name, values)
        elif verb is AccountVerb.ROTATE:
            self._refuse_elsewhere(name)
            await self._store.rotate(name, values)
        elif verb is AccountVerb.REMOVE:
            self._refuse_elsewhere(name)
            if not await self._store.remove(name):
                raise _unknown(name)
        else:
            if name not in self._sessions.states():
                raise _unknown(name)
            await self._store.switch(name, enabled=verb is AccountVerb.ENABLE)
        try:
            await self._sessions.table_changed()
        except BusUnavailableError as error:
            # The row is committed, and the next round takes it from there.
            log.warning("account_command.state_waits", account=name, reason=error.reason)
        # Plans follow at once; if this is lost, with the next round.
        await self._bus.publish(subjects.WAKE_CONTROL, b"")
        return self._sessions.states().get(name)

    async def _log_in(self, command: AccountCommand) -> AccountState:
        name = command.account
        if name not in self._sessions.states():
            raise _unknown(name)
        if command.request_token is not None:
            state = await self._sessions.use_request_token(name, command.request_token.strip())
        elif command.access_token is not None:
            state = await self._sessions.use_access_token(name, command.access_token.strip())
        else:
            state = await self._sessions.log_in(name)
        await self._bus.publish(subjects.WAKE_CONTROL, b"")
        return state

    def _refuse_elsewhere(self, name: str, *, taken: bool = False) -> None:
        """Raise if the account is described where a command cannot write."""
        record = self._sessions.record(name)
        if record is not None:
            source, place = record.description.source, record.description.place
        else:
            state = self._sessions.states().get(name)
            if state is None or state.source is AccountSource.DATABASE:
                return
            source, place = state.source, state.reason
        if source is AccountSource.DATABASE:
            return  # The store judges.
        sentence = accounts.where_to_change(name, source, place)
        raise AccountCommandError(
            "conflict", f"it exists already: {sentence}" if taken else sentence, field="account"
        )

    def _url_for(self, command: AccountCommand) -> str | None:
        if command.verb is not AccountVerb.LOGIN or command.access_token or command.request_token:
            return None
        return self._sessions.login_url(command.account)


def _unknown(name: str) -> AccountCommandError:
    return AccountCommandError("not_found", f"there is no account {name}", field="account")


def _error(code: str, message: str, retry_after_seconds: float | None = None) -> AccountReply:
    return AccountReply(
        error=RpcError(code=code, message=message, retry_after_seconds=retry_after_seconds)
    )


def _refusal(error: AccountCommandError, login_url: str | None) -> AccountReply:
    return AccountReply(
        error=RpcError(
            code=error.code,
            message=error.message,
            field=error.field,
            retry_after_seconds=error.retry_after_seconds,
        ),
        login_url=login_url,
    )
