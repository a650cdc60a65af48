"""The login pages: from user id, password and TOTP code to a redirect with a request token."""

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from services.simulator import metrics
from services.simulator.access import form_of, json_reply, required, success
from services.simulator.domain.sessions import Sessions
from services.simulator.errors import InputError

_PAGE = """<!doctype html><title>Simulated Kite login</title>
<p>This is the simulator's login page. POST user_id and password to /api/login, then user_id,
request_id, twofa_value and twofa_type=totp to /api/twofa, and load this page again.</p>
"""


class LoginRoutes:
    """`/connect/login`, `/api/login`, `/api/twofa`, `/connect/finish`.

    Args:
        sessions: Check the factors and hand out tokens.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def routes(self) -> list[Route]:
        """All routes of this area."""
        return [
            Route("/connect/login", self.login_page),
            Route("/connect/finish", self.finish, methods=["GET", "POST"]),
            Route("/api/connect/session", self.connect_session),
            Route("/api/login", self.password, methods=["POST"]),
            Route("/api/twofa", self.second_factor, methods=["POST"]),
            Route("/sim/redirect", self.landing_page),
        ]

    async def login_page(self, request: Request) -> Response:
        """Begin a login, show the page, or go on when the browser is logged in already."""
        api_key = required(request.query_params, "api_key")
        sess_id = request.query_params.get("sess_id")
        if sess_id is None:
            sess_id = self._sessions.begin_login(api_key)
            query = urlencode({"v": "3", "api_key": api_key, "sess_id": sess_id})
            return RedirectResponse(f"/connect/login?{query}", 302)
        self._check_login(api_key, sess_id)
        if "enctoken" in request.cookies:
            query = urlencode({"api_key": api_key, "sess_id": sess_id})
            return RedirectResponse(f"/connect/finish?{query}", 302)
        response = HTMLResponse(_PAGE)
        response.set_cookie("kf_session", sess_id, httponly=True)
        return response

    async def connect_session(self, request: Request) -> Response:
        """Say which app a login is for."""
        api_key = required(request.query_params, "api_key")
        self._check_login(api_key, required(request.query_params, "sess_id"))
        return success({"app_name": f"Simulated app {api_key}"})

    async def password(self, request: Request) -> Response:
        """Take user id and password."""
        form = await form_of(request)
        metrics.LOGIN_STEPS_TOTAL.labels(step="password").inc()
        user_id = required(form, "user_id")
        request_id = self._sessions.check_password(user_id, required(form, "password"))
        return success(
            {
                "user_id": user_id,
                "request_id": request_id,
                "twofa_type": "totp",
                "twofa_types": ["totp"],
                "twofa_status": "active",
                "profile": {"user_name": user_id, "user_shortname": user_id, "avatar_url": None},
            }
        )

    async def second_factor(self, request: Request) -> Response:
        """Take the TOTP code and log the browser in."""
        form = await form_of(request)
        metrics.LOGIN_STEPS_TOTAL.labels(step="totp").inc()
        if form.get("twofa_type", "totp") != "totp":
            raise InputError("Invalid `twofa_type`: only totp is supported.")
        user_id = required(form, "user_id")
        enctoken = self._sessions.check_second_factor(
            user_id, required(form, "request_id"), required(form, "twofa_value")
        )
        response = success({"profile": {"user_id": user_id}})
        response.set_cookie("enctoken", enctoken)
        response.set_cookie("public_token", enctoken[:16])
        response.set_cookie("user_id", user_id)
        return response

    async def finish(self, request: Request) -> Response:
        """Send a logged-in browser to the app, with a request token."""
        fields = {**request.query_params}
        if request.method == "POST":
            fields |= await form_of(request)
        api_key, sess_id = required(fields, "api_key"), required(fields, "sess_id")
        token = self._sessions.finish_login(api_key, sess_id, request.cookies.get("enctoken", ""))
        if token is None:
            raise InputError("The login is not complete or has expired. Please start again.")
        query = urlencode(
            {"action": "login", "type": "login", "status": "success", "request_token": token}
        )
        return RedirectResponse(f"{request.base_url}sim/redirect?{query}", 302)

    async def landing_page(self, request: Request) -> Response:
        """Stand in for the app's own redirect URL."""
        return json_reply({"request_token": request.query_params.get("request_token")})

    def _check_login(self, api_key: str, sess_id: str) -> None:
        self._sessions.account(api_key)
        if not self._sessions.knows_login(api_key, sess_id):
            raise InputError("Invalid or expired `sess_id`.")
