"""Asks control's leader about accounts over the bus, of the running fleet or of NATS_URL."""

import asyncio
import os

from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    BusUnavailableError,
    ConnectDeadlineError,
    NoResponderError,
    RequestTimeoutError,
)
from libs.common.bus.kv import Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import AccountCommand, AccountReply, AccountState
from libs.common.settings import NatsSettings, load
from services.fleet.data_directory import DataDirectory
from services.fleet.errors import AccountCommandFailedError, NoFleetError

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 5.0
_ANSWER_SECONDS = 45.0


def bus_settings(directory: DataDirectory) -> NatsSettings:
    """Where the bus is: NATS_URL when that is set, else that of the running fleet.

    Raises:
        NoFleetError: Neither is there.
    """
    if os.environ.get("NATS_URL"):
        return load(NatsSettings, nats_connect_deadline_seconds=_CONNECT_SECONDS)
    state = directory.running_state()
    if state is None:
        raise NoFleetError(
            directory.path, "none runs; start one with: tickfleet up, or set NATS_URL"
        )
    # The embedded NATS has no users; those of the shell belong to another one.
    return NatsSettings(
        nats_url=state.nats_url,
        nats_user=None,
        nats_password=None,
        nats_connect_deadline_seconds=_CONNECT_SECONDS,
    )


async def listing(settings: NatsSettings) -> list[AccountState]:
    """All accounts by name, as control described them last.

    Raises:
        AccountCommandFailedError: The bus does not answer.
    """
    stop = asyncio.Event()
    try:
        async with Bus.open(settings, name="tickfleet-accounts") as bus:
            mirror = Mirror(bus, streams.ACCOUNTS.name)
            task = asyncio.create_task(mirror.run(stop), name="mirror-accounts")
            try:
                async with asyncio.timeout(_READ_SECONDS):
                    await mirror.ready()
            finally:
                stop.set()
                await task
            found = [codec.from_json(AccountState, value) for value in mirror.items().values()]
    except (ConnectDeadlineError, BusUnavailableError) as error:
        raise AccountCommandFailedError(str(error)) from error
    except TimeoutError as error:
        raise AccountCommandFailedError(
            "the accounts cannot be read: has control ever run there?"
        ) from error
    return sorted(found, key=lambda state: state.account)


async def ask(settings: NatsSettings, command: AccountCommand) -> AccountReply:
    """Have control carry a command out, and give its answer, an error included.

    Raises:
        AccountCommandFailedError: Nobody leads, or the bus does not answer.
    """
    try:
        async with Bus.open(settings, name="tickfleet-accounts") as bus:
            answer = await bus.request(
                subjects.RPC_ACCOUNTS, codec.to_json(command), timeout_seconds=_ANSWER_SECONDS
            )
    except NoResponderError as error:
        raise AccountCommandFailedError(
            "no control process leads now; nothing was changed, try again in some seconds"
        ) from error
    except RequestTimeoutError as error:
        raise AccountCommandFailedError(
            "control did not answer in time; look with: tickfleet accounts list"
        ) from error
    except (ConnectDeadlineError, BusUnavailableError) as error:
        raise AccountCommandFailedError(str(error)) from error
    return codec.from_json(AccountReply, answer.payload)
