"""The page at `/`: a live option chain, served from the package's own files."""

import hashlib
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).resolve().parent.parent / "static"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "cache-control": "no-cache",
    # Everything from this origin, the WebSocket included; no inline script, no frame around it.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",  # The page's address may hold a token.
    "x-content-type-options": "nosniff",
}


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the page.

    Attributes:
        name: Its file name.
        body: Its bytes.
        etag: Changes with its bytes.
    """

    name: str
    body: bytes
    etag: str

    def response(self, request: Request) -> Response:
        """Answer with the file, or 304 if the browser has it."""
        headers = {**_HEADERS, "etag": self.etag}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=_MEDIA_TYPES[Path(self.name).suffix], headers=headers)


def load_assets() -> dict[str, Asset]:
    """Read the page's files; blocks, so call it in a thread."""
    assets = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix in _MEDIA_TYPES:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            assets[path.name] = Asset(name=path.name, body=body, etag=etag)
    return assets


def routes(assets: dict[str, Asset]) -> list[Route]:
    """The routes of the page and its files."""

    async def index(request: Request) -> Response:
        return assets["index.html"].response(request)

    def serving(asset: Asset) -> Route:
        async def serve(request: Request) -> Response:
            return asset.response(request)

        return Route(f"/static/{asset.name}", serve)

    return [Route("/", index), *map(serving, assets.values())]
