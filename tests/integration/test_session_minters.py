"""What every SessionMinter promises, asked of the real one on the simulator and of the fake."""

import msgspec
import pytest

from libs.common.domain.credentials import Credentials
from libs.common.kite.errors import KiteUnavailableError, LoginRefusedError
from libs.common.kite.login import SessionMinter, TotpSessionMinter
from tests.fakes.minter import FakeMinter
from tests.fakes.simulator import SimulatorProcess

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def right(simulator) -> Credentials:
    account = simulator.account()
    return Credentials(
        account="main",
        api_key=account.api_key,
        api_secret=account.api_secret,
        user_id=account.user_id,
        password=account.password,
        totp_secret=account.totp_secret,
    )


@pytest.fixture(params=["real", "fake"])
def minter(request, simulator, right) -> SessionMinter:
    if request.param == "fake":
        return FakeMinter(right)
    return TotpSessionMinter(login_root=simulator.url, api_root=simulator.url)


@pytest.fixture
def away(minter, simulator):
    """Make the broker give no answer."""
    if isinstance(minter, FakeMinter):
        minter.is_away = True
    else:
        simulator.fault(kind="error_replies", status=503, html=True)
    yield
    simulator.heal()


async def test_right_credentials_give_a_session_of_the_user_and_never_the_same_twice(minter, right):
    first, second = await minter.mint(right), await minter.mint(right)
    assert first.user_id == second.user_id == right.user_id
    assert first.access_token != second.access_token
    assert first.access_token not in repr(first)


@pytest.mark.parametrize(
    ("field", "value", "step"),
    [
        ("password", "wrong-word", "password"),
        ("user_id", "ZZ9999", "password"),
        ("totp_secret", "JBSWY3DPEHPK3PXP" * 2, "totp"),
        ("api_secret", "0" * 32, "session"),
        ("api_key", "no-such-key", "session"),
    ],
)
async def test_wrong_credential_is_refused_at_its_step(minter, right, field, value, step):
    wrong = msgspec.structs.replace(right, **{field: value})
    with pytest.raises(LoginRefusedError) as refused:
        await minter.mint(wrong)
    assert (refused.value.account, refused.value.step) == ("main", step)
    for secret in (right.password, right.api_secret, right.totp_secret, value):
        assert secret not in str(refused.value)


async def test_no_answer_is_no_refusal(minter, right, away):
    with pytest.raises(KiteUnavailableError):
        await minter.mint(right)
