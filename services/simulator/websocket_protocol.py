"""uvicorn's WebSocket protocol, with its TCP transport within reach of the faults."""

import logging
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request


class TransparentWebSocket(WebSocketsSansIOProtocol):
    """Puts the transport into `scope["state"]["transport"]` of each connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn logs the whole URL of every handshake, access token included.
        self.logger = logging.getLogger("services.simulator.uvicorn")
        self.logger.setLevel(logging.WARNING)

    def handle_connect(self, event: Request) -> None:
        """Begin a handshake; the application task starts after this returns."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["state"]["transport"] = self.transport
