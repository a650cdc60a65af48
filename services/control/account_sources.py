"""Reads every source of accounts, at its own pace, and keeps what was good while one is away."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from libs.common import logs
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts.messages import AccountSource
from libs.common.errors import RetryableError
from libs.common.settings import Variables
from services.control import metrics
from services.control.account_store import AccountStore, StoredAccounts
from services.control.domain import account_file, accounts
from services.control.domain.accounts import Directory, Found, Problem
from services.control.settings import ControlSettings
from services.control.user_service import UserService

T = TypeVar("T")
_TABLE_INTERVAL_SECONDS = 5.0
_RETRY_SECONDS = 10.0
# The first look may take longer: the first plan should know every account.
_FIRST_PATIENCE_SECONDS = 6.0
_PATIENCE_SECONDS = 0.2
_LOGGED_MAX = 50

log = logs.get_logger(__name__)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All sources as they are known now.

    Attributes:
        directory: The accounts.
        enabled: What people switched on or off, by name.
        unread: Sources that have not answered once; what they hold is unknown, not nothing.
    """

    directory: Directory
    enabled: Mapping[str, bool]
    unread: frozenset[AccountSource]


class _SlowSource(Generic[T]):
    """A source that is read in a task of its own, so that a slow answer holds nobody up."""

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        tasks: OwnedTasks,
        *,
        name: str,
        interval_seconds: float,
    ) -> None:
        self.value: T | None = None
        self.trouble: str | None = None
        self._read = read
        self._tasks = tasks
        self._name = name
        self._interval_seconds = interval_seconds
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    async def look(self, patience_seconds: float, *, at_once: bool = False) -> None:
        """Read if that is due, and wait for it only so long."""
        if at_once and self._task is not None:
            # What runs may have begun before the change.
            await asyncio.wait({self._task})
        if self._task is None or self._task.done():
            if not at_once and time.monotonic() < self._due:
                return
            self._task = self._tasks.spawn(self._once(), name=f"source-{self._name}")
        done, _ = await asyncio.wait({self._task}, timeout=patience_seconds)
        for task in done:
            task.result()  # Anything but a source that is away is a defect.

    async def _once(self) -> None:
        pause = min(self._interval_seconds, _RETRY_SECONDS)
        try:
            self.value = await self._read()
        except RetryableError as error:
            metrics.SOURCE_FAILURES_TOTAL.labels(source=self._name).inc()
            self.trouble = str(error)
        else:
            self.trouble = None
            pause = self._interval_seconds
        finally:
            self._due = time.monotonic() + pause


class AccountSources:
    """User service, YAML file, environment, single account and table, in this order.

    A source that cannot be read is a problem, and what it said last stays in force: a file that is
    just being edited and a database that restarts take no account away.

    Args:
        settings: Where they are.
        store: The table.
        variables: The environment.
    """

    def __init__(
        self, settings: ControlSettings, store: AccountStore, variables: Variables | None = None
    ) -> None:
        self._names = settings.kite_accounts
        self._file = Path(settings.kite_accounts_file) if settings.kite_accounts_file else None
        self._variables = variables or Variables(os.environ, Path(".env"))
        self._tasks = OwnedTasks()
        self._store = store
        self._table = _SlowSource[StoredAccounts](
            self._read_table,
            self._tasks,
            name=AccountSource.DATABASE.value,
            interval_seconds=_TABLE_INTERVAL_SECONDS,
        )
        self._service: _SlowSource[Found] | None = None
        if settings.use_user_service_accounts:
            service = UserService(
                base_url=settings.user_service_base_url, token=settings.user_service_service_token
            )
            self._service = _SlowSource[Found](
                service.read,
                self._tasks,
                name=AccountSource.USER_SERVICE.value,
                interval_seconds=settings.user_service_interval_seconds,
            )
        self._file_mark: tuple[int, ...] | None = None
        self._from_file: Found | None = None
        self._file_trouble: tuple[Problem, ...] = ()
        self._resealed = False
        self._first = True
        self._told: set[str] = set()

    async def look(self, *, table_at_once: bool = False) -> Snapshot:
        """Read what is due and give everything known.

        Args:
            table_at_once: Read the table now and wait for it: it was just changed.
        """
        patience = _FIRST_PATIENCE_SECONDS if self._first else _PATIENCE_SECONDS
        self._first = False
        slow = [
            self._table.look(
                _FIRST_PATIENCE_SECONDS if table_at_once else patience, at_once=table_at_once
            )
        ]
        if self._service is not None:
            slow.append(self._service.look(patience))
        # Files are read in a thread: they may lie on a disk that sleeps.
        reading = asyncio.to_thread(self._read_near)
        near, _ = await asyncio.gather(reading, asyncio.gather(*slow))
        snapshot = self._put_together(near)
        self._tell(snapshot.directory)
        return snapshot

    async def close(self) -> None:
        """End what is still being read."""
        await self._tasks.finish(patience_seconds=0.0)

    async def _read_table(self) -> StoredAccounts:
        if not self._resealed:
            await self._store.reseal()
            self._resealed = True
        return await self._store.read()

    def _read_near(self) -> tuple[Found, Found]:
        """Read the file if it changed, and the variables; blocks."""
        self._read_file()
        environment = accounts.from_environment(self._names, self._variables)
        single = accounts.single(self._variables)
        unreadable = tuple(
            Problem(source=AccountSource.ENVIRONMENT, message=message)
            for message in self._variables.problems.values()
        )
        return (
            msgspec.structs.replace(environment, problems=environment.problems + unreadable),
            single,
        )

    def _read_file(self) -> None:
        if self._file is None:
            return
        try:
            found = self._file.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark == self._file_mark:
                return
            with self._file.open("rb") as stream:
                content = stream.read(account_file.TEXT_BYTES_MAX + 1)
            text = content.decode("utf-8")
        except OSError as error:
            self._file_mark = None
            self._complain(f"cannot read {self._file}: {error.strerror}")
            return
        except UnicodeDecodeError as error:
            self._file_mark = mark
            line = content.count(b"\n", 0, error.start) + 1
            column = error.start - content.rfind(b"\n", 0, error.start)
            self._complain(f"{self._file}:{line}:{column}: no UTF-8 text")
            return
        self._file_mark = mark
        parsed = account_file.parse(text, str(self._file))
        if isinstance(parsed, Problem):
            self._file_trouble = (parsed,)
        else:
            self._from_file, self._file_trouble = parsed, ()

    def _complain(self, reason: str) -> None:
        message = f"KITE_ACCOUNTS_FILE: {reason}"
        self._file_trouble = (Problem(source=AccountSource.FILE, message=message),)

    def _put_together(self, near: tuple[Found, Found]) -> Snapshot:
        environment, single = near
        unread: set[AccountSource] = set()
        sources: list[Found] = []

        if self._service is not None:
            sources.append(_with_trouble(self._service, AccountSource.USER_SERVICE))
            if self._service.value is None:
                unread.add(AccountSource.USER_SERVICE)
        if self._file is not None:
            held = self._from_file or Found()
            sources.append(
                msgspec.structs.replace(held, problems=held.problems + self._file_trouble)
            )
            if self._from_file is None:
                unread.add(AccountSource.FILE)
        sources += [environment, single]
        table = self._table.value
        if table is None:
            unread.add(AccountSource.DATABASE)
        trouble: tuple[Problem, ...] = ()
        if self._table.trouble is not None:
            trouble = (Problem(source=AccountSource.DATABASE, message=self._table.trouble),)
        stored = table.found if table is not None else Found()
        sources.append(msgspec.structs.replace(stored, problems=stored.problems + trouble))
        return Snapshot(
            directory=accounts.merge(sources),
            enabled=table.enabled if table is not None else {},
            unread=frozenset(unread),
        )

    def _tell(self, directory: Directory) -> None:
        """Log each problem once while it lasts."""
        messages = {problem.message: problem for problem in directory.problems}
        metrics.ACCOUNT_PROBLEMS.set(len(messages))
        fresh = [p for message, p in messages.items() if message not in self._told]
        for problem in fresh[:_LOGGED_MAX]:
            log.warning(
                "accounts.problem",
                source=problem.source.value,
                account=problem.account,
                problem=problem.message,
            )
        if len(fresh) > _LOGGED_MAX:
            log.warning("accounts.more_problems", count=len(fresh) - _LOGGED_MAX)
        self._told = set(messages)


def _with_trouble(source: _SlowSource[Found], name: AccountSource) -> Found:
    found = source.value or Found()
    if source.trouble is None:
        return found
    problem = Problem(source=name, message=source.trouble)
    return msgspec.structs.replace(found, problems=(*found.problems, problem))
