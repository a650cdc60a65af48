"""From a Kite frame to Greeks on a WebSocket: the numbers are right, on real processes."""

import asyncio
import json
import subprocess
import sys
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from vollib.black import black
from vollib.black.greeks import analytical
from vollib.black.implied_volatility import implied_volatility

from libs.common.domain.credentials import Credentials
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.login import TotpSessionMinter
from services.fleet.domain.credentials import demo_accounts
from tests.fleet.fleet_process import SEED

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]


async def test_greeks_equal_an_independent_recomputation(healthy):
    streamed = await healthy.subscriptions(underlying="NIFTY", kind="option")
    tokens = [item["instrument_token"] for item in streamed]
    assert len(tokens) >= 40
    checked = 0
    async with healthy.client() as client:
        assert client.greeting["user"]["user_id"]
        await client.subscribe(tokens)
        for tick in await client.ticks(600):
            if tick["iv_status"] != "ok":
                assert tick["iv"] != 0
                continue
            flag = {"CE": "c", "PE": "p"}[tick["option_type"]]
            market = (tick["forward"], tick["strike"], 0.0, tick["tte"])
            iv = implied_volatility(tick["last_price"], *market, flag)
            assert tick["iv"] == pytest.approx(iv, abs=1e-6)
            named = (flag, tick["forward"], tick["strike"], tick["tte"], 0.0, iv)
            for name in ("delta", "gamma", "theta", "vega"):
                expected = getattr(analytical, name)(*named)
                assert tick[name] == pytest.approx(expected, abs=1e-6), name
            # vollib's own rho of Black-76 is -t times its price, per 1 % of rate.
            price = black(flag, tick["forward"], tick["strike"], tick["tte"], 0.0, iv)
            assert tick["rho"] == pytest.approx(-tick["tte"] * price * 0.01, abs=1e-6)
            instant = CALENDAR.expiry_instant("NFO", datetime.fromisoformat(tick["expiry"]).date())
            left = instant.timestamp() - tick["exchange_ts"] / 1e9
            if tick["repriced"]:
                # For a moment of the market after its packet.
                assert tick["tte"] <= left / 31_536_000 + 1e-9
            else:
                assert tick["tte"] == pytest.approx(left / 31_536_000, abs=1e-9)
            assert tick["forward_source"] in {"future", "synthetic"}
            assert tick["source"] == "sim"
            checked += 1
    assert checked > 300


async def test_sequence_counts_up_per_instrument(healthy):
    streamed = await healthy.subscriptions(underlying="BANKNIFTY")
    seen: dict[int, tuple[int, int]] = {}
    async with healthy.client() as client:
        await client.subscribe([item["instrument_token"] for item in streamed])
        for tick in await client.ticks(800):
            token, position = tick["instrument_token"], (tick["epoch"], tick["seq"])
            assert position > seen.get(token, (0, 0)) or position == seen.get(token)
            seen[token] = position
    assert len(seen) > 20


async def test_name_with_an_ampersand_is_streamed(healthy):
    streamed = await healthy.subscriptions(underlying="M&M")
    assert {item["kind"] for item in streamed} == {"equity", "future", "option"}
    async with healthy.client() as client:
        await client.subscribe([item["instrument_token"] for item in streamed])
        (tick,) = await client.ticks(1)
    assert tick["underlying"] == "M&M"


async def test_joining_client_gets_the_last_values_at_once(healthy):
    streamed = await healthy.subscriptions(underlying="SENSEX", kind="option")
    tokens = {item["instrument_token"] for item in streamed}
    async with healthy.client() as warm:
        await warm.subscribe(sorted(tokens))
        await warm.fresh_ticks(0, tokens)
    async with healthy.client() as client:
        await client.subscribe(sorted(tokens))
        first = await client.ticks(len(tokens))
    assert {tick["instrument_token"] for tick in first} == tokens


async def test_chain_curve_and_forward_agree_and_a_person_can_read_them(healthy):
    streamed = await healthy.subscriptions(underlying="NIFTY", kind="option")
    expiry = min(item["expiry"] for item in streamed)
    strikes = {item["strike"] for item in streamed if item["expiry"] == expiry}
    async with httpx.AsyncClient(base_url=healthy.gateway, timeout=10) as rest:

        async def whole() -> dict[str, Any]:
            async with asyncio.timeout(60):
                while True:
                    answer = await rest.get(f"/chains/NIFTY/{expiry}")
                    if answer.status_code == 200:
                        found: dict[str, Any] = answer.json()
                        if strikes <= set(found["strikes"]) and None not in found["smile_iv"]:
                            return found
                    await asyncio.sleep(0.2)

        chain = await whole()
        curve = (await rest.get(f"/vol/NIFTY/{expiry}")).json()
        forwards = (await rest.get("/forwards/NIFTY")).json()
        missing = (await rest.get("/chains/NIFTY/2001-01-25")).json()["error"]["message"]
    assert chain["strikes"][chain["offsets"].index(0)] == chain["atm_strike"]
    for letter, side in (("c", chain["calls"]), ("p", chain["puts"])):
        for row, strike in enumerate(chain["strikes"]):
            if side["iv_status"][row] == "ok":
                market = (chain["forward"], strike, 0.0, chain["tte"], letter)
                iv = implied_volatility(side["last_price"][row], *market)
                assert side["iv"][row] == pytest.approx(iv, abs=1e-6)
    assert strikes <= set(curve["strikes"])
    assert 0.02 < curve["atm_iv"] < 1.0
    # The streamed window is narrower than a quarter delta on either side for most expiries.
    wings = curve["call_iv_25d"], curve["put_iv_25d"]
    assert curve["risk_reversal_25d"] == (None if None in wings else wings[0] - wings[1])
    assert expiry in {forward["expiry"] for forward in forwards["items"]}
    assert f"the nearest is {expiry}" in missing
    said = await asyncio.to_thread(healthy.chain, "NIFTY", "--expiry", expiry)
    assert said[0].startswith(f"NIFTY {expiry}: forward ")
    assert len(said) == len(chain["strikes"]) + 3
    assert said[-1].startswith("ATM IV ")


STOCK_CLIENT = """
import json, sys, threading
from kiteconnect import KiteTicker
url, key, token, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
tokens = json.loads(sys.argv[5])
ticker = KiteTicker(key, token, root=url)
left = [count]
def on_connect(ws, response):
    ws.subscribe(tokens)
    ws.set_mode(ws.MODE_FULL, tokens)
def on_ticks(ws, ticks):
    for tick in ticks:
        if tick["mode"] == "full":
            print(json.dumps(tick, default=lambda t: t.timestamp()), flush=True)
    left[0] -= 1
    if left[0] <= 0:
        ws.stop()
ticker.on_connect, ticker.on_ticks = on_connect, on_ticks
ticker.connect()
"""


async def test_ticks_equal_what_the_stock_client_decodes(healthy, tmp_path):
    account = demo_accounts(1, SEED)[0]
    minter = TotpSessionMinter(login_root=healthy.simulator, api_root=healthy.simulator)
    minted = await minter.mint(Credentials(account=account.name, **account.credentials()))
    streamed = await healthy.subscriptions(underlying="NIFTY")
    tokens = [item["instrument_token"] for item in streamed]
    script = Path(tmp_path) / "stock_client.py"
    script.write_text(STOCK_CLIENT)
    url = healthy.simulator.replace("http", "ws", 1)
    arguments = [url, account.api_key, minted.access_token, "12", json.dumps(tokens)]
    async with healthy.client() as client:
        await client.subscribe(tokens)
        stock = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "ignore", script, *arguments],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        ours = await client.ticks(1500)
    theirs = defaultdict(list)
    for line in stock.stdout.splitlines():
        tick = json.loads(line)
        theirs[tick["instrument_token"], int(tick["exchange_timestamp"])].append(tick)
    assert theirs, stock.stderr[-2000:]
    # Of its first and last second the stock client may have seen a part only.
    first, last = (choose(second for _, second in theirs) for choose in (min, max))
    compared = 0
    for tick in ours:
        if tick["exchange_ts"] is None:
            continue
        second = tick["exchange_ts"] // 10**9
        candidates = theirs.get((tick["instrument_token"], second))
        if not candidates or not first < second < last:
            continue
        # Two ticks may carry the same second: ours equals one of them in every value.
        assert any(_same(tick, candidate) for candidate in candidates), (tick, candidates)
        compared += 1
    assert compared > 200


async def test_history_comes_through_the_running_fleet(healthy):
    lines = await asyncio.to_thread(
        healthy.history, "256265", "--from", "2026-01-05", "--to", "2026-01-09", "--interval", "day"
    )
    assert lines[0] == "time,open,high,low,close,volume"
    assert [line[:10] for line in lines[1:]] == [f"2026-01-0{day}" for day in range(5, 10)]


def _same(ours, theirs):
    book = [
        ours["last_price"] == theirs["last_price"],
        ours["ohlc"] == theirs["ohlc"],
    ]
    if theirs["tradable"]:
        book += [
            ours["volume"] == theirs["volume_traded"],
            ours["oi"] == theirs["oi"],
            _levels(ours["depth"]["buy"]) == _levels(theirs["depth"]["buy"]),
            _levels(ours["depth"]["sell"]) == _levels(theirs["depth"]["sell"]),
        ]
    return all(book)


def _levels(side):
    return [
        (level["price"], level["quantity"], level["orders"]) for level in side if level["quantity"]
    ]


async def test_health_has_the_shape_that_operators_know(healthy):
    health = healthy.health()
    assert health["status"] == "ok"
    assert health["environment"] == "dev"
    assert health["ticker"]["running"] is True
    assert health["ticker"]["active_subscriptions"] > 100
    assert set(health["ticker"]["accounts"]) == {"sim1", "sim2"}
    assert health["dependencies"]["database"] == "ok"


async def test_instruments_are_filtered_and_paged(healthy):
    everything = await healthy.instruments(underlying="NIFTY", kind="option")
    expiry = everything[0]["expiry"]
    of_expiry = await healthy.instruments(underlying="NIFTY", kind="option", expiry=expiry)
    assert {item["expiry"] for item in of_expiry} == {expiry}
    page = await healthy.instruments(underlying="NIFTY", kind="option", limit=5, offset=5)
    assert [i["instrument_token"] for i in page] == [
        i["instrument_token"] for i in everything[5:10]
    ]


async def test_subscription_over_rest_streams_priced_and_ends_again(healthy):
    candidates = await healthy.instruments(underlying="NIFTY", kind="option", planned="false")
    assert candidates, "every option lies in a window; the test needs one that does not"
    # Nearest the windows, where the market trades.
    token = candidates[0]["instrument_token"]
    path = f"/subscriptions/{token}"
    async with healthy.client() as client:
        await client.subscribe([token])
        asked = time.monotonic()
        found = await healthy.subscribe("POST", "/subscriptions", {"instrument_token": token})
        answered = time.monotonic()
        assert found["outcome"] == "subscribed"
        [tick] = await client.ticks(1)
        print(
            f"POST answered after {(answered - asked) * 1e3:.0f} ms, "
            f"first tick after {(time.monotonic() - asked) * 1e3:.0f} ms"
        )
    assert tick["instrument_token"] == token
    assert tick["forward"] is not None

    def row():
        return httpx.get(f"{healthy.gateway}{path}", timeout=5).json()

    await healthy.until(lambda: row()["account_id"] is not None, "the table names the account")
    assert (row()["origin"], row()["status"]) == ("explicit", "active")
    assert (await healthy.subscribe("DELETE", path))["outcome"] == "unsubscribed"

    await healthy.until(lambda: row()["status"] == "inactive", "the instrument leaves the plan")


async def test_plan_command_tells_the_plan_of_the_running_fleet(healthy):
    command = [sys.executable, "-m", "services.fleet", "plan", "--data-dir", str(healthy.folder)]
    done = await asyncio.to_thread(
        subprocess.run, [*command, "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in {0, 3}, done.stderr
    report = json.loads(done.stdout)
    assert report["leader"]
    assert report["planned"] == sum(a["planned"] for a in report["accounts"]) > 100
    assert {a["feed"] for a in report["accounts"] if a["planned"]} == {"streaming"}
