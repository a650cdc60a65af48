"""Commands that will not be carried out, kept whole where people find them."""

import time
from typing import Final

import msgspec

from libs.common.contracts.orders import DeadLetter, OrderCommand

TEXT_BYTES: Final = 16 * 1024


def text_of(command: OrderCommand | bytes) -> str:
    """A command as text, cut off where it would be too long to keep."""
    raw = command if isinstance(command, bytes) else msgspec.json.encode(command)
    # PostgreSQL's text holds no NUL.
    return raw[:TEXT_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")


def letter_of(
    account: str,
    task_id: str,
    payload: bytes,
    *,
    code: str,
    message: str,
    field: str | None = None,
) -> DeadLetter:
    """The letter about a command that never became a task."""
    return DeadLetter(
        account=account,
        task_id=task_id,
        code=code,
        message=message,
        field=field,
        command=text_of(payload),
        at_ns=time.time_ns(),
    )
