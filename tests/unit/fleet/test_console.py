"""The console: never blocks the supervisor, counts what it drops."""

import io
import threading

from services.fleet.console import _QUEUE_LINES, Console


class Stalled(io.StringIO):
    """A terminal that was paused."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        """Wait for the person to go on."""
        self.go_on.wait(30)
        return super().write(text)


def test_lines_come_out_in_order_with_their_prefix():
    stream = io.StringIO()
    with Console(stream, ["a", "bb"]).open() as console:
        console.line("a", "one")
        console.line("bb", "two")
        console.text("plain")

    assert stream.getvalue() == "a  | one\nbb | two\nplain\n"


def test_paused_terminal_drops_lines_counts_them_and_says_so():
    stream = Stalled()
    with Console(stream, ["a"]).open() as console:
        for number in range(_QUEUE_LINES + 50):
            console.line("a", str(number))
        dropped = console.dropped_lines
        stream.go_on.set()
        while console._queue.qsize():
            threading.Event().wait(0.001)
        console.line("a", "after")

    assert 48 <= dropped <= 50
    assert f"({dropped} log lines were dropped here)\na | after\n" in stream.getvalue()


def test_reader_that_has_gone_does_not_stop_the_fleet():
    stream = io.StringIO()
    stream.close()
    with Console(stream, ["a"], coloured=False).open() as console:
        console.line("a", "one")

    assert console.dropped_lines == 1
