"""Reads the secrets of an account from the text of a file or of standard input."""

import json
from collections.abc import Mapping
from difflib import get_close_matches

FIELDS = ("api_key", "api_secret", "user_id", "password", "totp_secret")


def parse(text: str) -> dict[str, str]:
    """Read a JSON object, or lines `field=value`; only the fields of an account may stand there.

    Raises:
        ValueError: Names the line or field that is wrong; holds no value.
    """
    if text.lstrip().startswith("{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            # The decoder's message quotes nothing, but its exception holds the whole document.
            raise ValueError("not valid JSON") from None
        return _checked(content)
    fields: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, sign, value = stripped.partition("=")
        if not sign:
            raise ValueError(f"line {number} is not field=value")
        if name.strip() in fields:
            raise ValueError(f"line {number}: {name.strip()!r} stands there a second time")
        fields[name.strip().lower()] = value.strip()
    return _checked(fields)


def _checked(content: Mapping[str, object]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in content.items():
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(FIELDS)}"
            raise ValueError(f"unknown field {name[:32]!r}; {hint}")
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} should be a text that is not empty")
        fields[name] = value.strip()
    return fields
