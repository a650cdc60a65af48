"""Outlives a fleet that was killed, and kills what the fleet could not stop any more.

Run by path, with `python -I -S`, in a session of its own. The fleet writes the process groups it
starts (`add PID`) and loses (`remove PID`) to our standard input; end of file means that the fleet
has ended, however that came about. Whatever is left then gets a grace period and SIGKILL. The lock
on the data directory is inherited, so no second fleet starts on data that is still being written.

Arguments: grace period in seconds, `terminate` (send SIGTERM first, where the kernel does not) or
`wait`.
"""

import os
import signal
import sys
import time

_POLL_SECONDS = 0.05


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Gone; or its number already belongs to somebody else.
        return False
    return True


def main(arguments: list[str]) -> None:
    """Follow the fleet's groups until it ends, then clear up."""
    grace_seconds, manner = float(arguments[0]), arguments[1]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        verb, _, text = line.strip().partition(" ")
        if verb == "add":
            groups.add(int(text))
        else:
            groups.discard(int(text))
    if manner == "terminate":
        for group in groups:
            _signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while groups and time.monotonic() < deadline:
        groups = {group for group in groups if _signal_group(group, 0)}
        if groups:
            time.sleep(_POLL_SECONDS)
    for group in groups:
        _signal_group(group, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
