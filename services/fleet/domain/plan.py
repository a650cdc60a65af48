"""Which processes make up a fleet, and what each is told: a table made from a few numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.fleet.domain.credentials import DemoAccount

NATS = "nats"
POSTGRES = "postgres"
SIMULATOR = "simulator"

# The fleet decides these; what the user's shell holds belongs to another deployment. A sandbox on
# made-up accounts must not meet a real broker, a real bus or a real database by accident.
_FOREIGN_PREFIXES = (
    "KITE_",
    "MOCK_",
    "PG",
    "SIM_ACCOUNTS",
    "SIM_PORT",
    "USE_USER_SERVICE",
    "USER_SERVICE_",
)
_SINGLE_ACCOUNT_FIELDS = (
    "API_KEY",
    "API_SECRET",
    "USER_ID",
    "PASSWORD",
    "TOTP_SECRET",
    "ACCESS_TOKEN",
)
_FOREIGN_NAMES = frozenset(
    {
        "ACCOUNT_ENCRYPTION_KEY",
        "DATABASE_URL",
        "ENABLE_MOCK_DATA",
        "FEED_SOURCE",
        "GATEWAY_PORT",
        "HEALTH_HOST",
        "HEALTH_PORT",
        "JWT_SECRET",
        "NATS_PASSWORD",
        "NATS_URL",
        "NATS_USER",
        "WORKER_ID",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetShape:
    """How many processes of each kind.

    Attributes:
        accounts: Simulated Kite accounts; each gets an ingest process.
        greeks: Greeks workers, which share the shards.
        gateways: Gateways, on neighbouring ports.
        controls: Control processes: one leads, the others stand by.
        orders: Orders workers, which share the accounts.
    """

    accounts: int = 3
    greeks: int = 2
    gateways: int = 1
    controls: int = 1
    orders: int = 1

    def names(self) -> list[str]:
        """Names of all service processes, in the order in which they start."""
        return [
            SIMULATOR,
            *_numbered("control", self.controls),
            *_numbered("greeks", self.greeks),
            *_numbered("ingest", self.accounts),
            *_numbered("orders", self.orders),
            *_numbered("gateway", self.gateways),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Where everything is.

    Attributes:
        ports: HTTP port of each service process, by name: of the simulator and the gateways the
            one they serve on, of the others that of the health page.
        nats_url: Of the embedded NATS.
        database_url: Of the embedded PostgreSQL, the password included.
        host: Of all of them.
        gateway_host: Address that the gateways listen on.
    """

    ports: Mapping[str, int]
    nats_url: str
    database_url: str = field(repr=False)
    host: str = "127.0.0.1"
    gateway_host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """What the processes have to agree on.

    Attributes:
        environment: `dev` or `test`.
        log_level: For all processes.
        log_format: `console` or `json`.
        encryption_key: Fernet key of the stored Kite sessions.
        jwt_secret: HS256 key of the WebSocket tokens.
        jwt_issuer: Their `iss`.
        jwt_audience: Their `aud`.
        api_key_enabled: Whether the gateway's REST wants an API key.
        seed: Of the simulated market and its accounts.
    """

    environment: str
    log_level: str
    log_format: str
    encryption_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    jwt_issuer: str
    jwt_audience: str
    api_key_enabled: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process of the fleet.

    Attributes:
        name: Unique, such as `greeks-2`; also its WORKER_ID.
        service: The module is `services.<service>`.
        environment: What the fleet tells it, over the user's own environment.
        url: Root of its HTTP pages `/livez`, `/readyz`, `/metrics`.
        requires: Names of those that must have been ready before.
    """

    name: str
    service: str
    environment: Mapping[str, str] = field(repr=False)
    url: str
    requires: tuple[str, ...]

    @property
    def ready_url(self) -> str:
        """Answers 200 when the process does its work."""
        return f"{self.url}/readyz"

    def argv(self, python: str) -> tuple[str, ...]:
        """Give the command that starts it with this interpreter."""
        return (python, "-m", f"services.{self.service}")


def plan(
    shape: FleetShape,
    wiring: Wiring,
    shared: SharedSettings,
    accounts: tuple[DemoAccount, ...],
) -> list[ProcessSpec]:
    """Make the table of the fleet's service processes.

    Each is told only what it needs: the broker's credentials reach control alone, the database
    control, greeks, orders and the gateways, the token secret the gateways.

    Raises:
        KeyError: A process has no port.
    """
    simulator = f"{wiring.host}:{wiring.ports[SIMULATOR]}"
    common = {
        "ENVIRONMENT": shared.environment,
        "LOG_LEVEL": shared.log_level,
        "LOG_FORMAT": shared.log_format,
        "PYTHONUNBUFFERED": "1",
    }
    bus = {"NATS_URL": wiring.nats_url}
    database = {"DATABASE_URL": wiring.database_url}
    encryption = {"ACCOUNT_ENCRYPTION_KEY": shared.encryption_key}
    broker = {
        "FEED_SOURCE": "sim",
        "KITE_API_URL": f"http://{simulator}",
        "KITE_LOGIN_URL": f"http://{simulator}",
        "KITE_WS_URL": f"ws://{simulator}",
    }
    # Said although they are empty: an .env file here may describe the accounts of a real broker.
    no_others = {
        "KITE_ACCOUNTS_FILE": "",
        "KITE_TOKEN_DIR": "",
        "USE_USER_SERVICE_ACCOUNTS": "false",
        "ENABLE_MOCK_DATA": "false",
        "MOCK_ACCOUNTS": "",
        **{f"KITE_{field}": "" for field in _SINGLE_ACCOUNT_FIELDS},
    }
    control = _numbered("control", shape.controls)
    postbacks = f"http://{wiring.host}:{wiring.ports['gateway-1']}/postback"
    told: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
        SIMULATOR: (
            {
                "SIM_SEED": str(shared.seed),
                "SIM_ACCOUNTS": json.dumps([account.credentials() for account in accounts]),
                "SIM_POSTBACK_URL": postbacks,
            },
            (),
        ),
        "control": (
            {
                **bus,
                **database,
                **encryption,
                **broker,
                **no_others,
                **_kite_variables(accounts),
            },
            (NATS, POSTGRES, SIMULATOR),
        ),
        # For candles of days that are over; it neither waits for the database nor needs it.
        "greeks": ({**bus, **database}, (NATS,)),
        "ingest": ({**bus, **encryption, **broker}, (SIMULATOR, *control)),
        # Where the broker is stands in each session; its tables are made by control.
        "orders": ({**bus, **database, **encryption}, (SIMULATOR, *control)),
        "gateway": (
            {
                **bus,
                **database,
                "GATEWAY_HOST": wiring.gateway_host,
                "JWT_SECRET": shared.jwt_secret,
                "JWT_ISSUER": shared.jwt_issuer,
                "JWT_AUDIENCE": shared.jwt_audience,
                "API_KEY_ENABLED": str(shared.api_key_enabled).lower(),
                # The page fetches a token for itself; never for others than this machine.
                "DEV_TOKEN_ENABLED": str(wiring.gateway_host == wiring.host).lower(),
            },
            tuple(control),
        ),
    }
    port_variable = {SIMULATOR: "SIM_PORT", "gateway": "GATEWAY_PORT"}
    specs = []
    for name in shape.names():
        service = name.partition("-")[0]
        settings, requires = told[service]
        port = wiring.ports[name]
        own = {"WORKER_ID": name, port_variable.get(service, "HEALTH_PORT"): str(port)}
        specs.append(
            ProcessSpec(
                name=name,
                service=service,
                environment={**common, **settings, **own},
                url=f"http://{wiring.host}:{port}",
                requires=requires,
            )
        )
    return specs


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep of the user's environment what does not belong to another deployment.

    What tunes a service (UNDERLYINGS, OTM_LEVELS, SIM_UNIVERSE…) stays.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_FOREIGN_PREFIXES)
        and name.removesuffix("_FILE") not in _FOREIGN_NAMES
    }


def _numbered(service: str, count: int) -> list[str]:
    return [f"{service}-{number}" for number in range(1, count + 1)]


def _kite_variables(accounts: tuple[DemoAccount, ...]) -> dict[str, str]:
    variables = {"KITE_ACCOUNTS": ",".join(account.name for account in accounts)}
    for account in accounts:
        for name, value in account.credentials().items():
            variables[f"KITE_{account.name}_{name}".upper()] = value
        prefix = f"KITE_{account.name}".upper()
        variables[f"{prefix}_WS_CONNECTIONS"] = str(account.connections)
        variables[f"{prefix}_MAX_INSTRUMENTS_PER_WS_CONNECTION"] = str(
            account.tokens_per_connection
        )
    return variables
