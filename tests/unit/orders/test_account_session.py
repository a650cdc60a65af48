"""Sessions of an account: a refused one is not used again, a newer one is."""

from libs.common.contracts.messages import KiteSession, Source
from libs.common.kite.orders import OrderBroker
from services.orders.account_session import AccountSession, kite_broker


def session_of(minted_at_ns, *, source=Source.SIM, api_url: str | None = "http://broker"):
    return KiteSession(
        account="main",
        api_key="k",
        access_token=f"t{minted_at_ns}",
        user_id="U",
        ws_url="ws://x",
        api_url=api_url,
        source=source,
        minted_at_ns=minted_at_ns,
    )


class Maker:
    """Makes real brokers, which call nobody by themselves, and remembers where they are."""

    def __init__(self) -> None:
        self.roots: list[str] = []

    def __call__(self, session: KiteSession, root: str) -> OrderBroker:
        """Make the broker of a session."""
        self.roots.append(root)
        return kite_broker(5.0)(session, root)


def account(make=None):
    return AccountSession("main", make or Maker())


def is_usable(own):
    return own.broker is not None


def test_without_a_session_there_is_no_broker():
    own = account()
    assert own.broker is None
    assert "log it in" in own.why_not


def test_refused_session_is_not_used_again_until_a_newer_one_comes():
    own = account()
    own.use(session_of(5))
    broker = own.broker
    assert broker is not None
    assert own.refuse(broker, "expired") is True
    assert own.refuse(broker, "expired") is False
    assert own.broker is None
    assert "expired" in own.why_not
    own.use(session_of(5, api_url="http://elsewhere"))
    assert own.broker is None
    own.use(session_of(6))
    assert is_usable(own)
    assert own.refusal == ""


def test_late_refusal_of_an_older_session_does_not_touch_the_newer_one():
    own = account()
    own.use(session_of(5))
    old = own.broker
    own.use(session_of(6))
    assert old is not None
    assert own.refuse(old, "expired") is False
    assert own.broker is not None


def test_live_session_without_an_address_is_at_kite_and_a_simulated_one_nowhere():
    make = Maker()
    own = account(make)
    own.use(session_of(1, source=Source.LIVE, api_url=None))
    assert own.is_live
    assert make.roots == ["https://api.kite.trade"]
    own.use(session_of(2, api_url=None))
    assert own.broker is None
    assert "does not say where" in own.why_not
    own.use(None)
    assert own.session is None
