"""Becomes another program that dies with its parent and, under root, is not root.

Everything is imported at the top: `nobody` may not be able to read the standard library any more.
Run by path, with `python -I -S`, between fork and exec of every child of the fleet: it imports
next to nothing, costs about 15 ms, and does in plain Python what a `preexec_fn` could only do at
the risk of a deadlock in a process with threads.

Arguments: parent pid, death signal (number), identity (`same`, `namespace`, `nobody`), program…
"""

import ctypes
import os
import pwd
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
# Any uid but 0 will do inside the namespace; the files outside stay ours.
_INNER_ID = 1000
EXIT_REFUSED = 126


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib costs 10 ms here
        file.write(text)


def _leave_root(identity: str) -> None:
    """Take on an identity that is not uid 0, which PostgreSQL refuses.

    Raises:
        OSError: The kernel, or the container's seccomp filter, does not allow it.
    """
    if identity == "namespace":
        uid, gid = os.geteuid(), os.getegid()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWUSER) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"unshare(CLONE_NEWUSER): {os.strerror(number)}")
        # The kernel accepts a gid map of an unprivileged process only after this.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{_INNER_ID} {uid} 1")
        _write("/proc/self/gid_map", f"{_INNER_ID} {gid} 1")
    elif identity == "nobody":
        entry = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)


def _die_with(parent: int, death_signal: int) -> None:
    """Ask the kernel for a signal when the parent's thread that started us ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    # After the change of identity: that clears the wish.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        # The parent died before the wish was made: nobody would ever send the signal.
        os._exit(EXIT_REFUSED)


def main(arguments: list[str]) -> None:
    """Read the arguments, arrange both, and become the program."""
    parent, death_signal, identity, *program = arguments
    try:
        _leave_root(identity)
        _die_with(int(parent), int(death_signal))
        # Python ignores these two, and exec hands that on to programs that count on them.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if hasattr(signal, "SIGXFSZ"):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execv(program[0], program)  # noqa: S606 - the program comes from the fleet's own plan
    except OSError as error:
        sys.stderr.write(f"cannot start {program[0]} as {identity}: {error}\n")
        sys.stderr.flush()
        os._exit(EXIT_REFUSED)


if __name__ == "__main__":
    main(sys.argv[1:])
