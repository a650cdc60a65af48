"""What the fleet's tests share: waiting for a condition, and looking at processes."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition that nobody announces; TimeoutError when it never holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the state of other processes has no event
            await asyncio.sleep(0.01)


def exists(pid: int) -> bool:
    """Whether a process runs; a zombie, which nobody may reap in a container, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc/self/stat").exists():
        return True
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def process_status(pid: int | None) -> dict[str, str]:
    """Give the fields of `/proc/<pid>/status`."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
