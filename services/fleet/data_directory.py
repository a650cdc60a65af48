"""The fleet's data directory: one owner at a time, the kept secrets, and the state of the fleet."""

import base64
import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from services.fleet.errors import DataDirectoryError, DataDirectoryInUseError
from services.fleet.tokens import new_jwt_secret

_POLL_SECONDS = 0.1
_UNSIGNED_SECONDS = 1.0
_FERNET_KEY_BYTES = 32
T = TypeVar("T")


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Keys that must outlive the processes; made at the first start.

    Attributes:
        jwt_secret: HS256 key of the WebSocket tokens.
        account_encryption_key: Fernet key of the stored Kite sessions.
    """

    jwt_secret: str
    account_encryption_key: str

    def __repr__(self) -> str:
        """Show nothing."""
        return "Secrets(…)"


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """One process as the supervisor sees it.

    Attributes:
        name: Such as `greeks-2`.
        service: Such as `greeks`.
        state: waiting, starting, ready, backoff or stopped.
        pid: None between two lives.
        restarts: How often it was started again after it had died.
        url: Root of its HTTP pages; None where it has none.
    """

    name: str
    service: str
    state: str
    pid: int | None
    restarts: int
    url: str | None


class FleetState(msgspec.Struct, frozen=True, kw_only=True):
    """What `fleet.json` says of the running fleet.

    Attributes:
        pid: Of the fleet process.
        started_at_seconds: Epoch time.
        up: Whether it has been up: all ready, and `GET /health` said ok.
        gateway_urls: Roots of the gateways; the dashboard is the first.
        simulator_url: Root of the simulator.
        nats_url: For clients.
        nats_monitor_url: Root of the monitoring pages.
        database_url: The password included.
        jwt_secret: HS256 key in use.
        jwt_issuer: `iss` in use.
        jwt_audience: `aud` in use.
        processes: In starting order.
    """

    pid: int
    started_at_seconds: int
    up: bool
    gateway_urls: tuple[str, ...]
    simulator_url: str
    nats_url: str
    nats_monitor_url: str
    database_url: str
    jwt_secret: str
    jwt_issuer: str
    jwt_audience: str
    processes: tuple[ProcessState, ...]

    def __repr__(self) -> str:
        """Show no secrets."""
        return f"FleetState(pid={self.pid}, …)"


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths of a data directory and what is done with them."""

    path: Path

    @property
    def nats(self) -> Path:
        """Folder of the embedded NATS."""
        return self.path / "nats"

    @property
    def postgres(self) -> Path:
        """Folder of the embedded PostgreSQL."""
        return self.path / "postgres"

    @property
    def state_file(self) -> Path:
        """Describes the running fleet; there is none when none runs."""
        return self.path / "fleet.json"

    @property
    def secrets_file(self) -> Path:
        """The kept keys."""
        return self.path / "secrets.json"

    @property
    def lock_file(self) -> Path:
        """Locked while a fleet runs, and until the last process of a killed one is gone."""
        return self.path / "fleet.lock"

    @contextlib.contextmanager
    def owned(self, patience_seconds: float) -> Iterator[int]:
        """Own the directory for the length of a block; gives the descriptor of the lock.

        Args:
            patience_seconds: How long to wait for the processes of a fleet that was killed.

        Raises:
            DataDirectoryInUseError: Another fleet owns it.
            DataDirectoryError: It cannot be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataDirectoryError(self.path, error.strerror or str(error)) from error
        try:
            self._lock(descriptor, patience_seconds)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int, patience_seconds: float) -> None:
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                pid = self._lock_pid()
                # A dead owner: its guardian still clears up, and ends soon. None: the owner has
                # not signed yet, or `tickfleet status` looks at the lock at this very moment.
                patience = (
                    min(patience_seconds, _UNSIGNED_SECONDS)
                    if pid is None
                    else (0.0 if _alive(pid) else patience_seconds)
                )
                if time.monotonic() - started > patience:
                    raise DataDirectoryInUseError(self.path, pid) from error
            else:
                return
            time.sleep(_POLL_SECONDS)

    def _lock_pid(self) -> int | None:
        try:
            return int(self.lock_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def is_owned(self) -> bool:
        """Whether a fleet owns the directory now."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def secrets(self) -> Secrets:
        """Read the kept keys, and make them at the first time; needs the ownership.

        Raises:
            DataDirectoryError: The file is not what we wrote.
        """
        kept = self.kept_secrets()
        if kept is None:
            kept = Secrets(
                jwt_secret=new_jwt_secret(),
                account_encryption_key=base64.urlsafe_b64encode(
                    secrets.token_bytes(_FERNET_KEY_BYTES)
                ).decode("ascii"),
            )
            _replace(self.secrets_file, msgspec.json.encode(kept))
        return kept

    def kept_secrets(self) -> Secrets | None:
        """Read the kept keys; None when no fleet has ever run here.

        Raises:
            DataDirectoryError: The file is not what we wrote, or is not ours to read.
        """
        content = self._read(self.secrets_file)
        return None if content is None else self._decode(content, Secrets, self.secrets_file)

    def write_state(self, state: FleetState) -> None:
        """Replace the description of the running fleet, readable by the owner alone."""
        _replace(self.state_file, msgspec.json.format(msgspec.json.encode(state), indent=2))

    def remove_state(self) -> None:
        """Remove the description: the fleet has stopped."""
        self.state_file.unlink(missing_ok=True)

    def running_state(self) -> FleetState | None:
        """Read the description of the running fleet; None when none runs.

        Raises:
            DataDirectoryError: The file is not what we wrote, or is not ours to read.
        """
        if not self.is_owned():
            return None
        content = self._read(self.state_file)
        return None if content is None else self._decode(content, FleetState, self.state_file)

    def _read(self, file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataDirectoryError(self.path, f"{file.name}: {error.strerror}") from error

    def _decode(self, content: bytes, kind: type[T], file: Path) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise DataDirectoryError(self.path, f"{file.name} is damaged: {error}") from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, and never readable by others."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
