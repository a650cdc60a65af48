"""Proves that requirements.lock names no registry: `python tests/lock_names_no_host.py`."""

import re
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.lock"


def hosts(text: str) -> list[str]:
    """Lines that point at a server."""
    return [line for line in text.splitlines() if re.search(r"://|--(extra-)?index-url", line)]


if __name__ == "__main__":
    found = hosts(LOCK.read_text(encoding="utf-8"))
    if found:
        print("requirements.lock must name no host:", *found, sep="\n  ")
    sys.exit(bool(found))
