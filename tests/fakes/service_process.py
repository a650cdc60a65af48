"""A service as a real process of a test's own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.fakes.nats_server import free_port

_FOREIGN = ("KITE_", "SIM_", "FLEET_", "MOCK_", "NATS_", "DATABASE_", "ENVIRONMENT")
_STOP_DEADLINE_SECONDS = 20.0


class ServiceProcess:
    """`python -m services.<service>`.

    Args:
        folder: Where its log goes, and its working directory.
        service: Which.
        name: Its worker id.
        environment: Its settings; of the machine's own nothing that could be a setting stays.
    """

    def __init__(self, folder: Path, service: str, name: str, **environment: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.health_port = free_port()
        self._folder = folder
        self._module = f"services.{service}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        self._environment = {
            **kept,
            # Not the working directory has the code.
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "WORKER_ID": name,
            "HEALTH_PORT": str(self.health_port),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it; does not wait."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it with SIGTERM and give its exit status."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(_STOP_DEADLINE_SECONDS)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(_STOP_DEADLINE_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = httpx.get(f"http://127.0.0.1:{self.health_port}/metrics", timeout=5).text
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total
