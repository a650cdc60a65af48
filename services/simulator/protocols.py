"""uvicorn's protocols, with their TCP transport within reach of the faults."""

import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

TRANSPORT = "transport"
"""Where it lies in `scope["state"]`."""


class TransparentHttp(HttpToolsProtocol):
    """Puts the transport into the state of each request."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["state"][TRANSPORT] = self.transport


class TransparentWebSocket(WebSocketsSansIOProtocol):
    """Puts the transport into the state of each connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn logs the whole URL of every handshake, access token included.
        self.logger = logging.getLogger("services.simulator.uvicorn")
        self.logger.setLevel(logging.WARNING)

    def handle_connect(self, event: Request) -> None:
        """Begin a handshake; the application task starts after this returns."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["state"][TRANSPORT] = self.transport
