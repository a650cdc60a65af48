"""Structured logs: events with keys, JSON or console, with secrets and personal data removed."""

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal

import structlog

REDACTED = "[REDACTED]"

_SECRET_KEYS = re.compile(
    r"password|passwd|secret|token(?!s\b|_count|s_total)|authorization|api_key|apikey|totp|cookie"
    r"|enctoken|checksum|encryption_key",
    re.IGNORECASE,
)
# Keys that contain the word token and mean an instrument.
_PLAIN_KEYS = frozenset({"instrument_token", "tokens", "token_count", "unknown_tokens"})
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_PHONE = re.compile(r"(?<![\w.])(?:\+?91[\s-]?)?[6-9]\d{4}[\s-]?\d{5}(?![\w.])")
_JWT = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*")
# Without "/" and ".": paths and module names are long, hold digits, and are no secrets.
_LONG_SECRET = re.compile(r"(?<![\w/.-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{32,}={0,2}(?![\w/.])")
_QUERY_SECRET = re.compile(
    r"(?i)\b((?:access_|request_|enc|public_|refresh_)?token|api_key|api_secret|password|checksum)"
    r"=([^&\s\"']+)"
)
_URL_PASSWORD = re.compile(r"(\w+://[^:/@\s]+):[^@/\s]+@")


def redact(text: str) -> str:
    """Remove e-mail addresses, phone numbers, tokens, keys and passwords from a text."""
    text = _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
    text = _QUERY_SECRET.sub(rf"\1={REDACTED}", text)
    text = _JWT.sub(REDACTED, text)
    text = _EMAIL.sub(REDACTED, text)
    text = _LONG_SECRET.sub(REDACTED, text)
    return _PHONE.sub(REDACTED, text)


def kind_of(error: BaseException) -> str:
    """Type and place of an exception without its message, where that may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _redact_value(key: str, value: Any, depth: int = 0) -> Any:  # noqa: PLR0911  # One per type.
    if depth > 6:
        return REDACTED
    if key not in _PLAIN_KEYS and _SECRET_KEYS.search(key) and isinstance(value, str | bytes):
        return REDACTED
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {k: _redact_value(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(key, v, depth + 1) for v in value]
    if isinstance(value, BaseException):
        return redact(repr(value))
    return value


def _redactor(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    del logger, method
    for key, value in event.items():
        if key not in {"timestamp", "level"}:
            event[key] = _redact_value(key, value)
    return event


def configure(
    *,
    service: str,
    worker_id: str,
    level: str = "info",
    style: Literal["json", "console"] = "json",
) -> None:
    """Route every log line of the process, the libraries' too, through one redacting pipeline.

    Args:
        service: Name of the service; stands in every line.
        worker_id: Name of the process; stands in every line.
        level: The least level that is written.
        style: `json` (one object per line) or `console`.
    """

    def name_process(
        logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        # A processor and not a context variable: threads start with an empty context.
        del logger, method
        event.setdefault("service", service)
        event.setdefault("worker", worker_id)
        return event

    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redactor,
    ]
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer(sort_keys=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for chatty in ("uvicorn.access", "websockets", "httpx", "httpcore", "nats", "kiteconnect"):
        # Their INFO lines hold whole URLs, tokens included, or repeat what our own events say.
        logging.getLogger(chatty).setLevel(logging.WARNING)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Give the logger of a module; call it with `__name__`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
