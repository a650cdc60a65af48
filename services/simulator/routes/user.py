"""Sessions and the user: `/session/token`, `/user/profile`."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.domain.clock import Clock, ist_datetime
from services.simulator import metrics
from services.simulator.access import Access, form_of, required, success
from services.simulator.domain.accounts import Account
from services.simulator.domain.sessions import Sessions
from services.simulator.errors import KiteError


class UserRoutes:
    """Access tokens and the profile behind them.

    Args:
        sessions: Mint and revoke tokens.
        access: Admits requests.
        market_clock: Virtual time, for `login_time`.
    """

    def __init__(self, sessions: Sessions, access: Access, market_clock: Clock) -> None:
        self._sessions = sessions
        self._access = access
        self._market_clock = market_clock

    def routes(self) -> list[Route]:
        """All routes of this area."""
        return [
            Route("/session/token", self.create_token, methods=["POST"]),
            Route("/session/token", self.revoke_token, methods=["DELETE"]),
            Route("/session/refresh_token", self.refresh_token, methods=["POST"]),
            Route("/user/profile", self.profile),
        ]

    async def create_token(self, request: Request) -> Response:
        """Exchange a request token for an access token."""
        form = await form_of(request)
        metrics.LOGIN_STEPS_TOTAL.labels(step="session").inc()
        api_key = required(form, "api_key")
        self._access.spend(self._sessions.account(api_key).api_key)
        session = self._sessions.exchange(
            api_key, required(form, "request_token"), required(form, "checksum")
        )
        now = ist_datetime(self._market_clock.now_ns())
        return success(
            {
                **_profile(session.account),
                "api_key": api_key,
                "access_token": session.access_token,
                "public_token": session.access_token[::-1],
                "refresh_token": "",
                "enctoken": "",
                "login_time": now.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )

    async def revoke_token(self, request: Request) -> Response:
        """End a session."""
        query = request.query_params
        session = self._sessions.verify(required(query, "api_key"), required(query, "access_token"))
        self._access.spend(session.account.api_key)
        self._sessions.revoke(session)
        return success(data=True)

    async def refresh_token(self, request: Request) -> Response:
        """Refuse, as Kite does for all but a few platforms."""
        form = await form_of(request)
        self._sessions.account(required(form, "api_key"))
        raise KiteError(403, "PermissionException", "Refresh tokens are not enabled for this app.")

    async def profile(self, request: Request) -> Response:
        """Say who the user is."""
        return success(_profile(self._access.session(request).account))


def _profile(account: Account) -> dict[str, object]:
    return {
        "user_id": account.user_id,
        "user_type": "individual",
        "email": f"{account.user_id.lower()}@simulator.invalid",
        "user_name": f"Simulated {account.user_id}",
        "user_shortname": account.user_id,
        "broker": "ZERODHA",
        "exchanges": ["NSE", "NFO", "BSE", "BFO"],
        "products": ["CNC", "NRML", "MIS"],
        "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
        "avatar_url": None,
        "meta": {"demat_consent": "physical"},
    }
