"""Writes the log lines of all processes to one stream without ever blocking the supervisor."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TextIO

from services.fleet.domain.log_lines import Prefix, prefixes

_QUEUE_LINES = 10_000
_LEAVE_SECONDS = 2.0


class Console:
    """Where prefixed lines go: a bounded queue and one thread that writes.

    A terminal that was paused, or a pipe that nobody reads, blocks its writer. If that were the
    supervisor, nothing would be restarted any more; if the children, ticks would stop. So lines
    are dropped instead, counted, and the next line that can be written says how many.

    Attributes:
        dropped_lines: Lines that found the queue full.
    """

    def __init__(self, stream: TextIO, names: list[str], *, coloured: bool | None = None) -> None:
        self._stream = stream
        self._prefixes = prefixes(names, coloured=stream.isatty() if coloured is None else coloured)
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)
        self._thread = threading.Thread(target=self._write_all, name="console", daemon=True)
        self._unreported = 0
        self.dropped_lines = 0

    def line(self, name: str, text: str) -> None:
        """Queue one line of a process; never blocks."""
        prefix = self._prefixes.get(name) or Prefix(name, len(name), None)
        self._put(prefix.render(text))

    def text(self, text: str) -> None:
        """Queue text without a prefix; never blocks."""
        self._put(text if text.endswith("\n") else text + "\n")

    def _put(self, text: str) -> None:
        if self._unreported and self._offer(f"({self._unreported} log lines were dropped here)\n"):
            self._unreported = 0
        if self._unreported or not self._offer(text):
            self.dropped_lines += 1
            self._unreported += 1

    def _offer(self, text: str) -> bool:
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            return False
        return True

    def _write_all(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                self._stream.write(text)
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                # The reader has gone (`tickfleet up | head`), which is no reason to stop a fleet.
                self.dropped_lines += 1

    @contextlib.contextmanager
    def open(self) -> Iterator["Console"]:
        """Run the writer; at the end wait briefly until everything is written."""
        self._thread.start()
        try:
            yield self
        finally:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=_LEAVE_SECONDS)
            self._thread.join(_LEAVE_SECONDS)
