"""The simulator's REST side over real sockets: login, envelope, dump, quotes, candles, limits."""

import csv
import hashlib
import io
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pyotp
import pytest

from libs.common.domain.credentials import Credentials
from libs.common.domain.instruments import parse_dump
from libs.common.kite.errors import LoginRefusedError
from libs.common.kite.login import TotpSessionMinter
from tests.fakes.simulator import SimulatorProcess, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def client(simulator):
    """REST client of the first account."""
    async with await simulator.client() as client:
        yield client


def credentials(simulator: SimulatorProcess, **changes: str) -> Credentials:
    account = simulator.account()
    fields = {name: getattr(account, name) for name in account.__struct_fields__}
    return Credentials(**{"account": "sim1", **fields, **changes})


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"password": "wrong"}, "password"),
        ({"user_id": "NOBODY"}, "password"),
        ({"totp_secret": "GEZDGNBVGY3TQOJQ"}, "totp"),
        ({"api_secret": "wrong"}, "session"),
        ({"api_key": "nokey"}, "session"),
    ],
)
async def test_wrong_credentials_are_refused_at_their_step(simulator, change, step):
    minter = TotpSessionMinter(login_root=simulator.url, api_root=simulator.url)
    with pytest.raises(LoginRefusedError) as caught:
        await minter.mint(credentials(simulator, **change))
    assert caught.value.step == step


async def test_the_login_pages_redirect_step_by_step(simulator):
    account = simulator.account(2)
    async with httpx.AsyncClient(base_url=simulator.url) as browser:
        first = await browser.get(f"/connect/login?v=3&api_key={account.api_key}")
        assert first.status_code == 302
        page = await browser.get(first.headers["location"])
        assert page.status_code == 200
        assert "kf_session" in page.cookies
        sess_id = parse_qs(urlsplit(first.headers["location"]).query)["sess_id"][0]
        early = await browser.get(f"/connect/finish?api_key={account.api_key}&sess_id={sess_id}")
        assert early.status_code == 400

        form = {"user_id": account.user_id, "password": account.password}
        request_id = (await browser.post("/api/login", data=form)).json()["data"]["request_id"]
        code = pyotp.TOTP(account.totp_secret).now()
        answer = await browser.post(
            "/api/twofa",
            data={"user_id": account.user_id, "request_id": request_id, "twofa_value": code},
        )
        assert {"enctoken", "public_token"} <= set(answer.cookies)

        again = await browser.get(first.headers["location"])
        assert "/connect/finish?" in again.headers["location"]
        done = await browser.get(again.headers["location"])
        query = parse_qs(urlsplit(done.headers["location"]).query)
        assert query["status"] == ["success"]
        assert query["action"] == ["login"]
        token = query["request_token"][0]
        landing = await browser.get(done.headers["location"])
        assert landing.json() == {"request_token": token}

        text = account.api_key + token + account.api_secret
        session = await browser.post(
            "/session/token",
            data={
                "api_key": account.api_key,
                "request_token": token,
                "checksum": hashlib.sha256(text.encode()).hexdigest(),
            },
        )
        data = session.json()["data"]
        assert len(data["login_time"]) == 19
        assert data["user_id"] == account.user_id


@pytest.mark.parametrize(
    ("method", "path", "status", "error_type"),
    [
        ("GET", "/user/profile", 403, "TokenException"),
        ("GET", "/quote?i=NSE:INFY", 403, "TokenException"),
        ("GET", "/nowhere", 404, "GeneralException"),
        ("DELETE", "/user/profile", 405, "GeneralException"),
        ("POST", "/session/token", 400, "InputException"),
        ("POST", "/api/login", 400, "InputException"),
        ("GET", "/connect/login", 400, "InputException"),
        ("GET", "/connect/login?api_key=nokey", 400, "InputException"),
        ("GET", "/connect/login?api_key=sim1key&sess_id=x", 400, "InputException"),
        ("DELETE", "/session/token?api_key=sim1key&access_token=x", 403, "TokenException"),
    ],
)
async def test_errors_come_in_kites_envelope(simulator, method, path, status, error_type):
    async with httpx.AsyncClient(base_url=simulator.url) as stranger:
        answer = await stranger.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["status"] == "error"
    assert body["error_type"] == error_type
    assert body["message"]


@pytest.mark.parametrize(
    "header", ["", "token", "token x", "token sim1key:", "Bearer a:b", "token sim2key:{token}"]
)
async def test_a_wrong_authorization_is_refused(simulator, header):
    value = header.format(token=await simulator.token())
    async with httpx.AsyncClient(base_url=simulator.url) as stranger:
        answer = await stranger.get("/user/profile", headers={"Authorization": value})
    assert answer.status_code == 403


async def test_a_session_ends_with_its_deletion(simulator):
    token = await simulator.mint(3)
    key = simulator.account(3).api_key
    header = {"Authorization": f"token {key}:{token}"}
    async with httpx.AsyncClient(base_url=simulator.url, headers=header) as client:
        assert (await client.get("/user/profile")).status_code == 200
        gone = await client.delete("/session/token", params={"api_key": key, "access_token": token})
        assert gone.json() == {"status": "success", "data": True}
        assert (await client.get("/user/profile")).status_code == 403


async def test_the_dump_is_csv_of_all_or_of_one_exchange(client):
    answer = await client.get("/instruments")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-encoding"] == "gzip"
    dump = parse_dump(answer.content)
    assert dump.skipped == []
    counts: dict[str, int] = {}
    for item in dump.instruments:
        counts[item.exchange] = counts.get(item.exchange, 0) + 1
    assert set(counts) == {"NSE", "BSE", "NFO", "BFO"}
    for exchange, count in counts.items():
        part = parse_dump((await client.get(f"/instruments/{exchange}")).content)
        assert len(part.instruments) == count
    plain = await client.get("/instruments/BSE", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(list(csv.reader(io.StringIO(plain.text)))) == counts["BSE"] + 1
    assert (await client.get("/instruments/MOON")).status_code == 400


async def test_quotes_come_under_the_requested_keys_and_unknown_ones_are_absent(client):
    keys = ["NSE:NIFTY 50", "256265", "NSE:M&M", "NSE:NOPE", "77", "nonsense"]
    data = (await client.get("/quote", params={"i": keys})).json()["data"]
    assert set(data) == {"NSE:NIFTY 50", "256265", "NSE:M&M"}
    share = data["NSE:M&M"]
    assert [len(share["depth"][side]) for side in ("buy", "sell")] == [5, 5]
    assert share["depth"]["buy"][0]["price"] < share["depth"]["sell"][0]["price"]
    assert share["lower_circuit_limit"] < share["last_price"] < share["upper_circuit_limit"]
    assert len(share["timestamp"]) == 19
    assert (await client.get("/quote", params={"i": ["NSE:M&M"] * 501})).status_code == 400
    assert (await client.get("/quote")).status_code == 400
    assert len((await client.get("/quote/ltp", params={"i": keys})).json()["data"]) == 3


@pytest.mark.parametrize(
    "path",
    [
        "/instruments/historical/1/minute?from=2026-11-18&to=2026-11-18",
        "/instruments/historical/x/minute?from=2026-11-18&to=2026-11-18",
        "/instruments/historical/256265/second?from=2026-11-18&to=2026-11-18",
        "/instruments/historical/256265/minute?from=yesterday&to=2026-11-18",
        "/instruments/historical/256265/minute?from=2026-11-18",
        "/instruments/historical/256265/minute?from=2026-11-18&to=2026-11-17",
        "/instruments/historical/256265/minute?from=2026-01-01&to=2026-11-17",
    ],
)
async def test_bad_history_requests_are_input_errors(client, path):
    answer = await client.get(path)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "InputException"


async def test_history_has_seven_columns_with_oi_and_six_without(client):
    token = 256265
    query = {"from": "2026-11-18 09:15:00", "to": "2026-11-18 09:20:00"}
    url = f"/instruments/historical/{token}/5minute"
    six = (await client.get(url, params={**query, "oi": "0"})).json()["data"]["candles"]
    seven = (await client.get(url, params={**query, "oi": "1"})).json()["data"]["candles"]
    assert [len(candle) for candle in six] == [6, 6]
    assert [len(candle) for candle in seven] == [7, 7]
    assert six[0][0] == "2026-11-18T09:15:00+0530"


async def test_an_overlong_form_is_refused(simulator):
    async with httpx.AsyncClient(base_url=simulator.url) as stranger:
        answer = await stranger.post("/api/login", content=b"user_id=" + b"x" * 100_000)
    assert answer.status_code == 400


async def test_limits_per_calendar_second_are_on_by_default(tmp_path):
    simulator = SimulatorProcess(tmp_path, SIM_RATE_LIMITS="true")
    try:
        simulator.start()
        async with await simulator.client() as client:

            async def bursts_into_the_limit() -> bool:
                # All within one calendar second, unless the attempt straddles two.
                started = int(time.time())
                answers = [await client.get("/quote/ltp?i=256265") for _ in range(3)]
                if int(time.time()) != started:
                    return False
                assert [answer.status_code for answer in answers].count(429) >= 2
                refused = answers[-1].json()
                assert refused["error_type"] == "NetworkException"
                assert refused["message"] == "Too many requests"
                return True

            await until(bursts_into_the_limit, "three requests in one calendar second")
    finally:
        simulator.kill()


async def test_health_and_metrics_are_on_the_same_port(simulator):
    async with httpx.AsyncClient(base_url=simulator.url) as stranger:
        assert (await stranger.get("/livez")).status_code == 200
        assert (await stranger.get("/readyz")).json()["status"] == "ready"
        assert "sim_step_seconds" in (await stranger.get("/metrics")).text
