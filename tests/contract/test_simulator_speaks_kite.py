"""The unmodified `kiteconnect` package takes the simulator for Kite."""

import asyncio
import contextlib
import datetime as dt
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
import requests
from kiteconnect import KiteConnect
from kiteconnect.exceptions import InputException, NetworkException, TokenException

from tests.fakes.simulator import DEADLINE_SECONDS, SimulatorProcess, until

pytestmark = pytest.mark.integration
NIFTY = 256265


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def kite(simulator: SimulatorProcess) -> KiteConnect:
    """A stock client after the login that people automate."""
    account = simulator.account()
    client = KiteConnect(account.api_key, root=simulator.url)
    login = urlsplit(client.login_url())
    with requests.Session() as browser:
        url = f"{simulator.url}{login.path}?{login.query}"
        first = browser.get(url)  # follows to the login page
        sess_id = parse_qs(urlsplit(first.url).query)["sess_id"][0]
        form = {"user_id": account.user_id, "password": account.password}
        answer = browser.post(f"{simulator.url}/api/login", data=form).json()
        browser.post(
            f"{simulator.url}/api/twofa",
            data={
                "user_id": account.user_id,
                "request_id": answer["data"]["request_id"],
                "twofa_value": pyotp.TOTP(account.totp_secret).now(),
                "twofa_type": "totp",
            },
        ).raise_for_status()
        landed = browser.get(f"{url}&sess_id={sess_id}")  # follows to the app's page
    request_token = parse_qs(urlsplit(landed.url).query)["request_token"][0]
    session = client.generate_session(request_token, account.api_secret)
    assert isinstance(session["login_time"], dt.datetime)
    assert client.access_token == session["access_token"]
    return client


def option_token(kite: KiteConnect) -> int:
    """A NIFTY call near the money."""
    spot = kite.ltp("NSE:NIFTY 50")["NSE:NIFTY 50"]["last_price"]
    calls = [
        row
        for row in kite.instruments("NFO")
        if row["name"] == "NIFTY" and row["instrument_type"] == "CE"
    ]
    nearest = min(calls, key=lambda row: (row["expiry"], abs(row["strike"] - spot)))
    return int(nearest["instrument_token"])


def test_profile(kite, simulator):
    assert kite.profile()["user_id"] == simulator.account().user_id


def test_instruments_of_all_exchanges_and_of_one(kite):
    rows = kite.instruments()
    assert {row["exchange"] for row in rows} == {"NSE", "BSE", "NFO", "BFO"}
    options = [row for row in kite.instruments("BFO") if row["instrument_type"] == "PE"]
    assert {row["name"] for row in options} == {"SENSEX", "BANKEX"}
    assert all(isinstance(row["expiry"], dt.date) for row in options)


def test_quote_ohlc_and_ltp(kite):
    key = "NSE:M&M"
    quote = kite.quote(key)[key]
    assert isinstance(quote["timestamp"], dt.datetime)
    assert quote["depth"]["buy"][0]["price"] < quote["depth"]["sell"][0]["price"]
    ohlc = kite.ohlc([key])[key]["ohlc"]
    assert ohlc["low"] <= ohlc["open"] <= ohlc["high"]
    assert kite.ltp(key)[key]["last_price"] > 0
    assert kite.ltp("NSE:NOPE") == {}


def test_history_with_and_without_open_interest(kite):
    token = option_token(kite)
    day = dt.date(2026, 11, 18)
    start = dt.datetime(2026, 11, 18, 9, 15)  # noqa: DTZ001  # kiteconnect wants naive IST.
    rows = kite.historical_data(token, start, start + dt.timedelta(minutes=4), "minute", oi=True)
    assert [row["date"].strftime("%H:%M") for row in rows] == [
        "09:15",
        "09:16",
        "09:17",
        "09:18",
        "09:19",
    ]
    assert rows[0]["date"].utcoffset() == dt.timedelta(hours=5, minutes=30)
    assert rows[0]["oi"] > 0
    daily = kite.historical_data(NIFTY, day - dt.timedelta(days=30), day, "day")
    assert "oi" not in daily[0]
    assert daily[-1]["date"].date() == day
    with pytest.raises(InputException, match="interval exceeds max limit: 60 days"):
        kite.historical_data(NIFTY, day - dt.timedelta(days=90), day, "minute")


def test_errors_arrive_as_the_packages_own_classes(kite, simulator):
    stranger = KiteConnect("sim1key", access_token="wrong", root=simulator.url)
    hooked = []
    stranger.set_session_expiry_hook(lambda: hooked.append(True))
    with pytest.raises(TokenException) as caught:
        stranger.profile()
    assert caught.value.code == 403
    assert hooked == [True]
    with pytest.raises(InputException):
        kite.quote()
    with pytest.raises(TokenException):
        kite.generate_session("used", "secret")
    simulator.fault(kind="error_replies", status=429, error_type="NetworkException", count=1)
    with pytest.raises(NetworkException) as limited:
        kite.profile()
    assert limited.value.code == 429


def test_the_wrong_checksum_is_a_token_exception(simulator):
    client = KiteConnect("sim2key", root=simulator.url)
    checksum = hashlib.sha256(b"").hexdigest()
    assert len(checksum) == 64
    with pytest.raises(TokenException, match="checksum"):
        client.generate_session("anything", "not the secret")


def test_logging_out_ends_the_session(simulator):
    token = asyncio.run(simulator.mint(3))
    client = KiteConnect("sim3key", access_token=token, root=simulator.url)
    client.profile()
    assert client.invalidate_access_token(token) is True
    with pytest.raises(TokenException):
        client.profile()


class Ticker:
    """A running KiteTicker and the events it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.seen: list[dict[str, Any]] = []

    async def next(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The next event that fulfils a condition."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                line = await self._process.stdout.readline()
                assert line, "KiteTicker ended"
                # kiteconnect prints its own messages between ours.
                with contextlib.suppress(json.JSONDecodeError):
                    event: dict[str, Any] = json.loads(line)
                    self.seen.append(event)
                    if wanted(event):
                        return event

    async def event(self, name: str) -> dict[str, Any]:
        """The next event of a name."""
        return await self.next(lambda event: event["event"] == name)


@contextlib.asynccontextmanager
async def ticker(
    simulator: SimulatorProcess, number: int, token: str, **modes: list[int]
) -> AsyncIterator[Ticker]:
    """KiteTicker with subscriptions; it ends when its standard input does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.kite_ticker_client"),
        *(simulator.ws_url, simulator.account(number).api_key, token, json.dumps(modes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 24,
    )
    try:
        yield Ticker(process)
    finally:
        process.kill()
        await process.wait()


async def test_kite_ticker_decodes_every_mode(simulator, kite):
    token = await asyncio.to_thread(option_token, kite)
    share = (await asyncio.to_thread(kite.ltp, "NSE:M&M"))["NSE:M&M"]["instrument_token"]
    access = await simulator.token(2)
    async with ticker(
        simulator, 2, access, full=[NIFTY, token], ltp=[share], default=[265]
    ) as client:
        latest: dict[tuple[int, str], dict[str, Any]] = {}
        expected = {(NIFTY, "full"), (token, "full"), (share, "ltp"), (265, "quote")}

        def note(event: dict[str, Any]) -> bool:
            latest.update(
                ((tick["instrument_token"], tick["mode"]), tick) for tick in event.get("ticks", [])
            )
            return expected <= set(latest)

        await client.next(note)
        index, option = latest[NIFTY, "full"], latest[token, "full"]
        assert index["tradable"] is False
        assert index["ohlc"]["low"] <= index["last_price"] <= index["ohlc"]["high"]
        assert index["exchange_timestamp"]
        assert option["tradable"] is True
        assert [len(option["depth"][side]) for side in ("buy", "sell")] == [5, 5]
        assert option["depth"]["buy"][0]["price"] < option["depth"]["sell"][0]["price"]
        assert option["oi"] > 0
        assert option["volume_traded"] > 0
        assert set(latest[share, "ltp"]) == {
            "tradable",
            "mode",
            "instrument_token",
            "last_price",
        }


@pytest.mark.parametrize("kind", ["dropped_socket", "reset"])
async def test_kite_ticker_comes_back_and_replays_its_subscriptions(simulator, kind):
    async with ticker(simulator, 2, await simulator.token(2), full=[NIFTY]) as client:
        await client.event("ticks")
        simulator.fault(kind=kind, api_key="sim2key")
        await client.event("close")
        await client.event("connect")
        await client.next(
            lambda event: any(tick["mode"] == "full" for tick in event.get("ticks", []))
        )


async def test_kite_ticker_ticks_again_after_bad_frames(simulator):
    """Where the cut falls decides whether it skips a packet or drops the connection."""
    async with ticker(simulator, 2, await simulator.token(2), full=[NIFTY, 265]) as client:
        await client.event("ticks")
        simulator.fault(kind="truncated_frame", api_key="sim2key", count=3)
        await until(lambda: not simulator.active_faults(), "three truncated frames")
        await client.event("ticks")


async def test_kite_ticker_skips_a_packet_of_odd_length(simulator):
    async with ticker(simulator, 2, await simulator.token(2), full=[NIFTY]) as client:
        await client.event("ticks")
        simulator.fault(kind="odd_packet", api_key="sim2key", count=3)
        for _ in range(6):
            await client.event("ticks")
        assert [event["event"] for event in client.seen].count("connect") == 1


async def test_a_dead_token_is_a_403_for_kite_ticker(simulator):
    token = await simulator.mint(4)
    async with ticker(simulator, 4, token, full=[NIFTY]) as client:
        await client.event("ticks")
        simulator.fault(kind="dead_token", api_key="sim4key")
        error = await client.event("error")
        assert error["code"] == 1006
        assert "403" in error["reason"]


async def test_text_messages_reach_kite_tickers_callbacks(simulator):
    async with ticker(simulator, 2, await simulator.token(2), full=[NIFTY]) as client:
        await client.event("ticks")
        simulator.fault(kind="text_message", type="message", data="hello")
        simulator.fault(kind="text_message", type="error", data="mind the gap")
        simulator.fault(kind="text_message", type="order", data={"order_id": "1"})
        assert (await client.event("error"))["reason"] == "mind the gap"
        assert (await client.event("order"))["data"] == {"order_id": "1"}


async def test_an_orders_updates_reach_kite_tickers_callback(simulator, kite):
    token = await asyncio.to_thread(option_token, kite)
    rows = await asyncio.to_thread(kite.instruments, "NFO")
    option = next(row for row in rows if row["instrument_token"] == token)
    async with ticker(simulator, 1, kite.access_token, full=[token]) as client:
        await client.event("ticks")
        order_id = await asyncio.to_thread(
            kite.place_order,
            "regular",
            "NFO",
            option["tradingsymbol"],
            "BUY",
            option["lot_size"],
            "NRML",
            "MARKET",
            market_protection=-1,
            tag="heard",
        )
        done = await client.next(
            lambda event: event["event"] == "order" and event["data"]["status"] == "COMPLETE"
        )
    assert done["data"]["order_id"] == order_id
    assert done["data"]["tag"] == "heard"
    assert done["data"]["filled_quantity"] == option["lot_size"]
