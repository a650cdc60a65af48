"""Breaking TCP connections: what uvicorn's protocols never do by themselves."""

import asyncio
import os
import socket
import struct
from typing import Final

# SO_LINGER on, 0 seconds: closing sends RST instead of FIN.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Break a connection with RST; nothing that waits to be sent is sent."""
    raw = transport.get_extra_info("socket")
    # A duplicate descriptor: uvloop's own socket object refuses setsockopt, the option belongs
    # to the socket below both.
    with socket.socket(fileno=os.dup(raw.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
