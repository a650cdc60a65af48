"""`tickfleet orders …` against a real gateway: what people type and what they are told."""

import asyncio
import json
import os
import sys

import pytest

from libs.common.contracts.messages import RpcError
from libs.common.contracts.orders import OrderReply, OrderState
from tests.integration.gateway_rig import running_gateway
from tests.integration.test_gateway_orders import (
    anyio_backend,
    bus,
    gateway,
    postgres,
    server,
    stored,
    until_state,
    worker,
)

__all__ = ["anyio_backend", "bus", "gateway", "postgres", "server", "worker"]

pytestmark = pytest.mark.integration

PLACE = ("place", "BUY", "75", "NIFTY26DEC26000CE", "--account", "main", "--price", "101.5")


async def run_cli(gateway, *arguments, api_key=None):
    """Run the command line against a gateway; gives status, output and errors."""
    environment = {**os.environ, "COLUMNS": "200"}
    if api_key is not None:
        environment["API_KEY"] = api_key
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.fleet", "orders", *arguments, "--gateway", gateway.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_order_is_placed_shown_listed_changed_and_cancelled(gateway, worker):
    status, out, err = await run_cli(gateway, *PLACE, "--key", "cli-1")
    assert (status, err) == (0, "")
    assert "BUY 75 NIFTY26DEC26000CE LIMIT at 101.50" in out
    assert "key cli-1" in out
    await until_state(gateway, "cli-1", "open")

    status, out, _ = await run_cli(gateway, *PLACE, "--key", "cli-1")
    assert status == 0
    assert "nothing new was sent" in out
    status, out, err = await run_cli(gateway, *PLACE[:1], "SELL", *PLACE[2:], "--key", "cli-1")
    assert status == 1
    assert "belongs to another command" in err

    status, out, _ = await run_cli(gateway, "show", "cli-1")
    assert status == 0
    for word in ("accepted", "sending", "acked", "open", "2611240000"):
        assert word in out
    status, out, _ = await run_cli(
        gateway, "modify", "--account", "main", "--task", "cli-1", "--price", "99"
    )
    assert status == 0
    assert "modify cli-1: price 99" in out
    status, out, _ = await run_cli(gateway, "cancel", "--account", "main", "--task", "cli-1")
    assert status == 0
    assert "cancel cli-1" in out

    status, out, _ = await run_cli(gateway, "list", "--verb", "place")
    assert status == 0
    assert "cli-1" in out
    status, out, _ = await run_cli(gateway, "list", "--json", "--limit", "2")
    assert len(json.loads(out)["items"]) == 2
    status, out, _ = await run_cli(gateway, "list", "--state", "rejected")
    assert out == "no order matches\n"


async def test_order_that_was_not_executed_is_exit_status_three(gateway, worker):
    worker.steps = lambda _: (OrderState.REJECTED,)
    status, out, err = await run_cli(gateway, *PLACE)
    assert (status, err) == (3, "")
    assert out.startswith("rejected")


async def test_unknown_outcomes_are_shown_and_decided(gateway, worker):
    status, out, _ = await run_cli(gateway, "unknown")
    assert (status, out) == (0, "the outcome of every request is known\n")
    worker.steps = lambda _: (OrderState.SENDING, OrderState.UNKNOWN)
    await run_cli(gateway, *PLACE, "--key", "lost", "--wait", "0")
    await until_state(gateway, "lost", "unknown")
    status, out, _ = await run_cli(gateway, "unknown")
    assert status == 3
    assert "lost" in out
    status, out, _ = await run_cli(
        gateway, "resolve", "lost", "adopt", "--order-id", "77", "--reason", "seen"
    )
    assert status == 0
    assert "done: True" in out
    assert worker.asked[-1].order_id == "77"
    status, _, err = await run_cli(gateway, "resolve", "lost", "resend", "--reason", "no")
    assert status == 1  # Nobody is there to confirm it.
    worker.answer = OrderReply(error=RpcError(code="conflict", message="it is open already"))
    status, _, err = await run_cli(gateway, "resolve", "lost", "absent", "--reason", "no")
    assert status == 1
    assert err == "tickfleet: it is open already (conflict)\n"


async def test_kill_switch_and_what_the_broker_says(gateway, bus, postgres):
    status, out, _ = await run_cli(gateway, "kill-switch", "main")
    assert (status, out) == (0, "kill switch of main: off\n")
    status, out, _ = await run_cli(gateway, "kill-switch", "main", "on", "--reason", "runaway")
    assert out == "kill switch of main: ON: nothing but cancels leaves (runaway)\n"
    status, _, err = await run_cli(gateway, "limits", "main")
    assert status == 1
    assert "no worker holds the orders of main" in err
    await postgres.execute(
        "INSERT INTO broker_trades (account, trade_id, day, order_id, body, at) VALUES ('main', "
        "'1', '2026-11-24', '77', '{\"tradingsymbol\":\"X\",\"average_price\":5}', now())"
    )
    await postgres.execute(
        "INSERT INTO broker_snapshots (account, kind, body, taken_at) VALUES ('main', "
        '\'positions\', \'{"net":[{"tradingsymbol":"X","quantity":-75}]}\', now())'
    )
    status, out, _ = await run_cli(gateway, "trades", "--day", "2026-11-24")
    assert status == 0
    assert "5.00" in out
    status, out, _ = await run_cli(gateway, "positions")
    assert status == 0
    assert "-75" in out
    status, out, _ = await run_cli(gateway, "dead")
    assert (status, out) == (0, "no command is dead\n")


async def test_refusals_name_the_field_and_nothing_is_sent(gateway, bus):
    for arguments, words in (
        (("place", "BUY", "75", "X", "--account", "nobody"), "there is none called nobody"),
        (("show", "a.b"), "task_id"),
        (("show", "../accounts"), "not_found"),
        (("cancel", "--account", "main"), "--task"),
        (("list", "--since", "yesterday"), "since"),
    ):
        status, _, err = await run_cli(gateway, *arguments)
        assert status in {1, 2}
        assert words in err
        assert "Traceback" not in err
    assert await stored(bus) == []


async def test_key_that_is_wanted_is_asked_for_and_never_shown(nats_server, bus):
    async with running_gateway(nats_server.url, api_key_enabled=True, api_key="s" * 20) as gateway:
        status, _, err = await run_cli(gateway, *PLACE, api_key="wrong-key-of-mine")
        assert status == 1
        assert "set API_KEY" in err
        assert "wrong-key-of-mine" not in err
        status, _, err = await run_cli(gateway, *PLACE, "--wait", "0", api_key="s" * 20)
        assert (status, err) == (0, "")


async def test_lost_answer_names_the_key_to_repeat_with(nats_server, gateway):
    nats_server.pause()
    status, _, err = await run_cli(gateway, *PLACE, "--key", "mine")
    nats_server.resume()
    assert status == 1
    # A gateway that has noticed by then that the server is away knows that nothing left.
    assert "mine" in err
    assert "nothing was accepted" in err or ("--key mine" in err and "never without" in err)


async def test_gateway_that_is_not_there_is_said_in_one_line():
    class Nowhere:
        url = "http://127.0.0.1:1"

    status, _, err = await run_cli(Nowhere, *PLACE)
    assert status == 1
    assert err.startswith("tickfleet: http://127.0.0.1:1 does not answer")
    assert "nothing was accepted" in err
    Nowhere.url = "host"
    status, _, err = await run_cli(Nowhere, "list")
    assert (status, err) == (1, "tickfleet: --gateway: host is no address such as https://host\n")
