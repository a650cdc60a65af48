"""The table of processes: who runs, who waits for whom, and who is told which secret."""

import json
from dataclasses import replace

import pytest

from services.fleet.domain.credentials import demo_accounts
from services.fleet.domain.ordering import levels
from services.fleet.domain.plan import FleetShape, SharedSettings, Wiring, inherited, plan

SHAPE = FleetShape(accounts=2, greeks=2, gateways=2, controls=2, orders=2)
SHARED = SharedSettings(
    environment="dev",
    log_level="info",
    log_format="console",
    encryption_key="encryption-secret",
    jwt_secret="jwt-secret",
    jwt_issuer="tickfleet",
    jwt_audience="tickfleet-ws",
    api_key_enabled=False,
    seed=7,
)
ACCOUNTS = demo_accounts(2, 7)
WIRING = Wiring(
    ports={name: 9000 + index for index, name in enumerate(SHAPE.names())},
    nats_url="nats://127.0.0.1:4222",
    database_url="postgresql://tickfleet:database-secret@127.0.0.1:5432/tickfleet",
)
SPECS = {spec.name: spec for spec in plan(SHAPE, WIRING, SHARED, ACCOUNTS)}


def test_default_fleet_has_one_ingest_per_account():
    assert FleetShape().names() == [
        "simulator",
        "control-1",
        "greeks-1",
        "greeks-2",
        "ingest-1",
        "ingest-2",
        "ingest-3",
        "orders-1",
        "gateway-1",
    ]


def test_every_process_knows_its_name_and_its_own_port():
    ports = {
        name: spec.environment.get("SIM_PORT")
        or spec.environment.get("GATEWAY_PORT")
        or spec.environment["HEALTH_PORT"]
        for name, spec in SPECS.items()
    }

    assert ports == {name: str(port) for name, port in WIRING.ports.items()}
    assert all(spec.environment["WORKER_ID"] == name for name, spec in SPECS.items())
    assert SPECS["gateway-2"].ready_url == f"http://127.0.0.1:{ports['gateway-2']}/readyz"


def test_order_of_starting_has_no_circle_and_gateways_come_last():
    requires = {"nats": (), "postgres": (), **{n: spec.requires for n, spec in SPECS.items()}}

    order = levels(requires)

    assert order[0] == ["nats", "postgres", "simulator"]
    assert set(order[-1]) == {
        *("ingest-1", "ingest-2"),
        *("orders-1", "orders-2"),
        *("gateway-1", "gateway-2"),
    }


@pytest.mark.parametrize(
    ("secret", "services"),
    [
        ("database-secret", {"control", "gateway", "greeks", "orders"}),
        ("jwt-secret", {"gateway"}),
        ("encryption-secret", {"control", "ingest", "orders"}),
        (ACCOUNTS[0].totp_secret, {"control", "simulator"}),
    ],
)
def test_secret_reaches_only_those_who_need_it(secret, services):
    told = {spec.service for spec in SPECS.values() if secret in str(dict(spec.environment))}

    assert told == services


def test_accounts_differ_in_capacity_and_control_is_told():
    accounts = demo_accounts(3, 7)
    (control, *_) = (s for s in plan(SHAPE, WIRING, SHARED, accounts) if s.service == "control")

    assert len({(a.connections, a.tokens_per_connection) for a in accounts}) == 3
    for account in accounts:
        prefix = f"KITE_{account.name.upper()}"
        told = control.environment
        assert told[f"{prefix}_WS_CONNECTIONS"] == str(account.connections)
        assert told[f"{prefix}_MAX_INSTRUMENTS_PER_WS_CONNECTION"] == str(
            account.tokens_per_connection
        )


def test_simulator_and_control_agree_on_the_accounts():
    given = json.loads(SPECS["simulator"].environment["SIM_ACCOUNTS"])
    control = SPECS["control-1"].environment

    assert control["KITE_ACCOUNTS"] == "sim1,sim2"
    for number, account in enumerate(given, start=1):
        assert set(account) == {"api_key", "api_secret", "user_id", "password", "totp_secret"}
        for field, value in account.items():
            assert control[f"KITE_SIM{number}_{field.upper()}"] == value


def test_accounts_of_a_real_broker_in_an_env_file_stay_out():
    control = SPECS["control-1"].environment

    for name in ("KITE_ACCOUNTS_FILE", "KITE_TOKEN_DIR", "KITE_API_KEY", "KITE_ACCESS_TOKEN"):
        assert control[name] == ""
    assert control["USE_USER_SERVICE_ACCOUNTS"] == "false"


def test_page_gets_tokens_by_itself_only_on_the_own_machine():
    opened = plan(SHAPE, replace(WIRING, gateway_host="0.0.0.0"), SHARED, ACCOUNTS)

    assert SPECS["gateway-1"].environment["DEV_TOKEN_ENABLED"] == "true"
    assert {s.environment["DEV_TOKEN_ENABLED"] for s in opened if s.service == "gateway"} == {
        "false"
    }


def test_simulator_calls_the_first_gateway_back():
    url = SPECS["simulator"].environment["SIM_POSTBACK_URL"]

    assert url == f"{SPECS['gateway-1'].url}/postback"


def test_command_is_the_module_of_the_service():
    assert SPECS["greeks-2"].argv("/usr/bin/python3") == (
        "/usr/bin/python3",
        "-m",
        "services.greeks",
    )


def test_no_secret_shows_when_the_plan_is_printed():
    text = f"{SPECS} {WIRING} {SHARED} {ACCOUNTS}"

    for secret in ("database-secret", "jwt-secret", "encryption-secret", ACCOUNTS[1].password):
        assert secret not in text


def test_real_broker_and_database_of_the_users_shell_stay_out():
    shell = {
        "PATH": "/usr/bin",
        "UNDERLYINGS": "NIFTY",
        "SIM_UNIVERSE": "full",
        "DATABASE_POOL_SIZE": "3",
        "KITE_ACCOUNTS": "mine",
        "USE_USER_SERVICE_ACCOUNTS": "true",
        "USER_SERVICE_SERVICE_TOKEN": "real",
        "KITE_MINE_PASSWORD": "real",
        "DATABASE_URL": "postgresql://production",
        "DATABASE_URL_FILE": "/run/secrets/database",
        "NATS_USER": "production",
        "PGHOST": "production",
        "SIM_ACCOUNTS": "[]",
        "HEALTH_PORT": "1",
    }

    assert inherited(shell) == {
        "PATH": "/usr/bin",
        "UNDERLYINGS": "NIFTY",
        "SIM_UNIVERSE": "full",
        "DATABASE_POOL_SIZE": "3",
    }
