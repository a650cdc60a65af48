"""The health page of a process: `/livez`, `/readyz` and `/metrics`."""

import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from libs.common import metrics
from libs.common.http_server import http_server
from libs.common.lifecycle import Lifecycle
from libs.common.settings import BaseServiceSettings

# A check says None when all is well, else a short reason that a person can act on.
Check = Callable[[], str | None]


class Health:
    """What a process says of itself.

    Alive means: do not kill me. Ready means: send me work. A lost dependency makes a process
    unready and never dead; restarting it would not bring the dependency back.
    """

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self._checks: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        """Add a readiness check; it runs on the event loop and must not block."""
        self._checks[name] = check

    def failing(self) -> dict[str, str]:
        """Names and reasons of the checks that fail now."""
        reasons = {}
        if self._life.stop.is_set():
            reasons["lifecycle"] = "stopping"
        for name, check in self._checks.items():
            reason = check()
            if reason is not None:
                reasons[name] = reason
        return reasons

    def routes(self) -> list[Route]:
        """The three routes, for an application of one's own."""

        async def livez(request: Request) -> Response:
            del request
            if self._life.failure is not None:
                return PlainTextResponse("failed\n", status_code=503)
            return PlainTextResponse("ok\n")

        async def readyz(request: Request) -> Response:
            del request
            failing = self.failing()
            return JSONResponse(
                {"status": "unready" if failing else "ready", "failing": failing},
                status_code=503 if failing else 200,
            )

        async def exposition(request: Request) -> Response:
            del request
            return Response(
                metrics.exposition(), headers={"content-type": metrics.EXPOSITION_CONTENT_TYPE}
            )

        return [
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", exposition),
        ]

    @contextlib.asynccontextmanager
    async def served(self, settings: BaseServiceSettings) -> AsyncIterator[None]:
        """Serve the health page on the process's own port until the block ends."""
        app = Starlette(routes=self.routes())
        async with http_server(
            app,
            host=settings.health_host,
            port=settings.health_port,
            port_setting="HEALTH_PORT",
            life=self._life,
            lifespan="off",
        ):
            yield
