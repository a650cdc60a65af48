"""The accounts as control describes them, and the way to have control change one."""

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, NoResponderError, RequestTimeoutError
from libs.common.bus.kv import Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import AccountCommand, AccountReply, AccountState
from libs.common.lifecycle import Lifecycle
from services.gateway.errors import AccountsUnavailableError, CommandRefusedError

# Longer than control takes at most, so that an answer is not missed by a moment.
ANSWER_SECONDS = 45.0
_RETRY_SECONDS = 2.0

log = logs.get_logger(__name__)


class Accounts:
    """A mirror of the bucket `accounts`, and requests to control's leader.

    Nothing is stored or judged here: control has the table, the keys and the last word.

    Args:
        bus: The connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._states: dict[str, AccountState] = {}
        self._mirror = Mirror(bus, streams.ACCOUNTS.name, self._changed)

    def start(self, life: Lifecycle) -> None:
        """Keep the mirror current until the process stops."""
        life.spawn(self._mirror.run(life.stop), name="mirror-accounts")

    @property
    def is_ready(self) -> bool:
        """Whether the bucket was read once."""
        return self._mirror.is_ready

    def states(self) -> list[AccountState]:
        """All accounts by name."""
        return sorted(self._states.values(), key=lambda state: state.account)

    async def ask(self, command: AccountCommand) -> AccountState | None:
        """Have control carry a command out; gives the account as it is now.

        Raises:
            CommandRefusedError: Control refused; holds its own words.
            AccountsUnavailableError: Nobody leads, NATS is away, or there was no answer in time.
        """
        try:
            answer = await self._bus.request(
                subjects.RPC_ACCOUNTS, codec.to_json(command), timeout_seconds=ANSWER_SECONDS
            )
            reply = codec.from_json(AccountReply, answer.payload)
        except NoResponderError as error:
            raise AccountsUnavailableError(
                "no_leader",
                "no control process leads now; nothing was changed",
                retry_after_seconds=_RETRY_SECONDS,
            ) from error
        except RequestTimeoutError as error:
            raise AccountsUnavailableError(
                "timeout", "control did not answer in time; look at the account before repeating"
            ) from error
        except BusUnavailableError as error:
            raise AccountsUnavailableError(
                "unavailable", str(error), retry_after_seconds=_RETRY_SECONDS
            ) from error
        except codec.DecodeError as error:
            raise AccountsUnavailableError(
                "unavailable", "control answered something this gateway cannot read"
            ) from error
        if reply.error is None:
            return reply.state
        if reply.error.code in {"no_leader", "unavailable", "timeout"}:
            raise AccountsUnavailableError(
                reply.error.code,
                reply.error.message,
                retry_after_seconds=reply.error.retry_after_seconds,
            )
        raise CommandRefusedError(reply.error)

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._states.pop(subjects.unescape(key), None)
            return
        try:
            state = codec.from_json(AccountState, value)
        except codec.DecodeError as error:
            # From a newer or broken sender: the state before is kept.
            log.warning("directory.undecodable", bucket="accounts", key=key, reason=str(error))
            return
        self._states[state.account] = state


def shown(state: AccountState) -> dict[str, object]:
    """A state as REST shows it: without the fingerprint, which is for control alone."""
    fields: dict[str, object] = msgspec.to_builtins(state)
    del fields["refused_fingerprint"]
    return fields
