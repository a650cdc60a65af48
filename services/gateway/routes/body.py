"""Reads the JSON body of a request: bounded, strict, and with errors that name the place."""

import re
from collections.abc import Collection
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from services.gateway.errors import BadParameterError, BodyError

T = TypeVar("T")

_PATH: Final = re.compile(r"^(?P<message>.*) - at `(?P<path>[^`]*)`$", re.DOTALL)


async def read_json(
    request: Request, kind: type[T], *, bytes_max: int, may_be_empty: bool = False
) -> T:
    """Read a body of a known shape.

    Args:
        request: The request.
        kind: A struct that forbids unknown fields.
        bytes_max: A larger body is not read to its end.
        may_be_empty: No body at all stands for an object without fields.

    Raises:
        BodyError: It is too large, of another type, or no JSON.
        BadParameterError: It is JSON of another shape; names the field, an element by its index.
    """
    value = await read_value(request, bytes_max=bytes_max, may_be_empty=may_be_empty)
    return converted(value, kind)


async def read_value(request: Request, *, bytes_max: int, may_be_empty: bool = False) -> Any:
    """Read a body that is JSON, whatever its shape.

    A body of another type is refused, JSON or not: no page of another site can send this type
    without asking the gateway first. Arguments and errors are those of `read_json`.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    raw = await read_bytes(request, bytes_max=bytes_max)
    if may_be_empty and not raw.strip():
        raw = b"{}"
    elif content_type != "application/json":
        raise BodyError(
            415,
            "unsupported_media_type",
            "send JSON with the header Content-Type: application/json",
        )
    try:
        # First the syntax, for its own error: a shape can only be wrong where there is one.
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BodyError(400, "invalid_json", f"the body is not JSON: {error}") from error


def converted(value: Any, kind: type[T], *, within: str = "", hidden: Collection[str] = ()) -> T:
    """Make decoded JSON a struct.

    Args:
        value: What was decoded.
        kind: A struct that forbids unknown fields.
        within: Where the value stands in the body, such as `orders[3]`; goes before the field.
        hidden: Fields of the struct that a body may not name.

    Raises:
        BadParameterError: It has another shape; names the field, an element by its index.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        field, message = _place(str(error), kind, hidden)
        raise BadParameterError(f"{within}.{field}" if within else field, message) from error


async def read_bytes(request: Request, *, bytes_max: int) -> bytes:
    """Read a body as it is.

    Raises:
        BodyError: It is too large, or the connection ended inside it.
    """
    told = request.headers.get("content-length", "")
    too_large = BodyError(413, "body_too_large", f"the body may have {bytes_max} bytes at most")
    if told.isascii() and told.isdigit() and int(told) > bytes_max:
        raise too_large
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > bytes_max:
                raise too_large
    except ClientDisconnect as error:
        raise BodyError(400, "incomplete_body", "the connection ended inside the body") from error
    return bytes(body)


def _place(text: str, kind: type, hidden: Collection[str]) -> tuple[str, str]:
    """Split msgspec's words into the field and what is wrong with it."""
    match = _PATH.match(text)
    message, path = (match["message"], match["path"]) if match else (text, "$")
    field = path.removeprefix("$").removeprefix(".")
    # msgspec names the object; the field that is missing or unknown stands in its sentence.
    named = re.search(r"(?P<how>required|unknown) field `(?P<name>[^`]+)`", message)
    if named is not None:
        if named["how"] == "unknown" and not field:
            names = (known.name for known in msgspec.structs.fields(kind))
            known = ", ".join(name for name in names if name not in hidden) or "none"
            message = f"unknown field; known: {known}"
        field = f"{field}.{named['name']}" if field else named["name"]
    return field or "body", message
