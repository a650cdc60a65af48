"""The simulator's accounts, which stand in for the live ones while every exchange is closed."""

import asyncio
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from libs.common.contracts.messages import AccountSource, Source
from libs.common.settings import Variables
from services.control.account_sources import Snapshot
from services.control.domain import accounts
from services.control.settings import ControlSettings

D = TypeVar("D", accounts.Account, accounts.Problem)


class StandInAccounts:
    """The accounts of MOCK_ACCOUNTS, described by variables as those of KITE_ACCOUNTS are.

    Args:
        settings: Which names.
        variables: The environment.
    """

    def __init__(self, settings: ControlSettings, variables: Variables | None = None) -> None:
        self._names = settings.mock_accounts
        self._variables = variables or Variables(os.environ, Path(".env"))

    async def look(self, *, table_at_once: bool = False) -> Snapshot:
        """Give everything known; nothing here lies in the table."""
        del table_at_once
        found = await asyncio.to_thread(accounts.from_environment, self._names, self._variables)
        own = accounts.Found(
            accounts=tuple(_own(account) for account in found.accounts),
            problems=tuple(_own(problem) for problem in found.problems),
        )
        return Snapshot(directory=accounts.merge([own]), enabled={}, unread=frozenset())

    async def close(self) -> None:
        """Nothing is being read between two looks."""


def _own(described: D) -> D:
    return msgspec.structs.replace(described, source=AccountSource.STAND_IN)


def as_simulated(settings: ControlSettings) -> ControlSettings:
    """The settings with which the stand-ins log in: the simulator's addresses, nobody's tokens."""
    root = settings.mock_url.rstrip("/")
    return settings.model_copy(
        update={
            "kite_api_url": root,
            "kite_login_url": root,
            "kite_ws_url": root.replace("http", "ws", 1),
            "feed_source": Source.SIM,
            "kite_token_dir": "",
        }
    )
