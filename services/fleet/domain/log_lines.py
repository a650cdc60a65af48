"""Cuts the bytes of a child's output into prefixed lines of bounded length."""

from dataclasses import dataclass, field

# Colours that read on dark and light terminals; a fleet with more processes repeats them.
PALETTE = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


@dataclass(slots=True)
class LineSplitter:
    """Collects chunks of output into lines, and holds at most one line of `limit_bytes`.

    A program that never writes a newline, or a traceback of a megabyte, costs the fleet no more
    memory than that: the rest of such a line is dropped, and the line says how much.

    Attributes:
        limit_bytes: The longest line that is kept whole.
        dropped_bytes: How much was cut from long lines so far.
    """

    limit_bytes: int = 8192
    dropped_bytes: int = field(default=0, init=False)
    _kept: bytearray = field(default_factory=bytearray, init=False)
    _cut: int = field(default=0, init=False)

    def feed(self, chunk: bytes) -> list[str]:
        """Give the lines that a chunk of output completes."""
        *complete, rest = chunk.split(b"\n")
        lines = []
        for piece in complete:
            self._keep(piece)
            lines.append(self._take())
        self._keep(rest)
        return lines

    def end(self) -> list[str]:
        """Give the last line, where the output did not end with a newline."""
        return [self._take()] if self._kept or self._cut else []

    def _keep(self, piece: bytes) -> None:
        room = self.limit_bytes - len(self._kept)
        self._kept += piece[:room]
        self._cut += max(0, len(piece) - room)

    def _take(self) -> str:
        text = self._kept.decode("utf-8", errors="replace").rstrip("\r")
        if self._cut:
            text += f" … ({self._cut} bytes more)"
        self.dropped_bytes += self._cut
        self._kept.clear()
        self._cut = 0
        return text


@dataclass(frozen=True, slots=True)
class Prefix:
    """Puts the name of a process before its lines.

    Attributes:
        name: The process.
        width: Names are padded to this, so that the lines align.
        colour: An ANSI colour number, or None for plain text.
    """

    name: str
    width: int
    colour: int | None

    def render(self, line: str) -> str:
        """Give the line as it is shown, with a newline."""
        label = f"{self.name:<{self.width}} |"
        if self.colour is not None:
            label = f"\x1b[{self.colour}m{label}\x1b[0m"
        return f"{label} {line}\n"


def prefixes(names: list[str], *, coloured: bool) -> dict[str, Prefix]:
    """Give every process its prefix, in the order of the list."""
    width = max((len(name) for name in names), default=0)
    return {
        name: Prefix(name, width, PALETTE[index % len(PALETTE)] if coloured else None)
        for index, name in enumerate(names)
    }
