"""Keeps the guardian process informed of what the fleet has started."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from libs.common.logs import get_logger

_SCRIPT = str(Path(__file__).with_name("guardian.py"))
_LEAVE_SECONDS = 5.0
log = get_logger(__name__)


class Guard:
    """Our end of the guardian's pipe; see `guardian.py` for the other one."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def add(self, pid: int) -> None:
        """A process group was started."""
        self._tell(f"add {pid}\n")

    def remove(self, pid: int) -> None:
        """A process group has ended."""
        self._tell(f"remove {pid}\n")

    def _tell(self, line: str) -> None:
        try:
            os.write(self._pipe, line.encode("ascii"))
        except BrokenPipeError:
            # Somebody killed the guardian. The fleet works without it.
            log.warning("fleet.guardian_lost", consequence="no clean-up if the fleet is killed")


@contextlib.contextmanager
def guarded(grace_seconds: float, lock: int | None = None) -> Iterator[Guard]:
    """Run a guardian for as long as the fleet lives.

    Args:
        grace_seconds: How long children may take to stop after the fleet was killed.
        lock: A file descriptor that stays open (and locked) until the guardian has cleared up.
    """
    # Where the kernel sends no death signal, the guardian asks the children to stop.
    manner = "wait" if sys.platform.startswith("linux") else "terminate"
    guardian = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-I", "-S", _SCRIPT, str(grace_seconds), manner],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
        bufsize=0,
    )
    if guardian.stdin is None:  # pragma: no cover - PIPE was asked for
        raise RuntimeError("the guardian has no pipe")
    try:
        yield Guard(guardian.stdin.fileno())
    finally:
        with contextlib.suppress(BrokenPipeError):
            guardian.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guardian.wait(_LEAVE_SECONDS)
