"""The way to have control change an account, and an account as REST shows it."""

import msgspec

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, NoResponderError, RequestTimeoutError
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import AccountCommand, AccountReply, AccountState
from services.gateway.errors import AccountsUnavailableError, CommandRefusedError

# Longer than control takes at most, so that an answer is not missed by a moment.
ANSWER_SECONDS = 45.0
_RETRY_SECONDS = 2.0


class AccountDesk:
    """Requests to control's leader.

    Nothing is stored or judged here: control has the table, the keys and the last word.

    Args:
        bus: The connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

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


def shown(state: AccountState) -> dict[str, object]:
    """A state as REST shows it: without the fingerprint, which is for control alone."""
    fields: dict[str, object] = msgspec.to_builtins(state)
    del fields["refused_fingerprint"]
    return fields
