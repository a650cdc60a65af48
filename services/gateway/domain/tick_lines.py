"""Slices published ticks into lines with their tokens, without parsing a single one.

`md.tick.v1` promises newline-delimited JSON objects whose first key is `instrument_token` and
whose last key is `source` (`libs.common.contracts.messages.Tick`).
"""

from libs.common.contracts.messages import Source

_HEAD = b'{"instrument_token":'
_HEAD_LENGTH = len(_HEAD)
_TOKEN_MAX = 0xFFFF_FFFF
_CLOSING_BRACE = ord("}")
_GREEKS_TS = b'"greeks_ts":'
_SOURCES = {b'"source":"%s"}' % source.encode(): source for source in Source}


def split_ticks(payload: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Cut a payload into its ticks.

    Returns:
        (instrument token, the object's bytes) of every line in order, and how many lines are no
        ticks; blank lines do not count.
    """
    ticks = []
    bad = 0
    for line in payload.split(b"\n"):
        if not line:
            continue
        end = line.find(b",", _HEAD_LENGTH, _HEAD_LENGTH + 11)
        digits = line[_HEAD_LENGTH:end]
        # isdigit of bytes knows ASCII only, so int() cannot fail behind it.
        if (
            end > 0
            and digits.isdigit()
            and line[-1] == _CLOSING_BRACE
            and line.startswith(_HEAD)
            and (token := int(digits)) <= _TOKEN_MAX
        ):
            ticks.append((token, line))
        else:
            bad += 1
    return ticks, bad


def greeks_ts_of(line: bytes) -> int:
    """When the tick was made, epoch ns; 0 if the line does not say."""
    start = line.rfind(_GREEKS_TS)
    if start < 0:
        return 0
    start += len(_GREEKS_TS)
    end = line.find(b",", start)
    digits = line[start : end if end > 0 else len(line) - 1]
    return int(digits) if digits.isdigit() else 0


def source_of(line: bytes) -> Source | None:
    """Whether the tick is live or simulated; None if the line does not end by saying so."""
    start = line.rfind(b'"source":')
    return _SOURCES.get(line[start:]) if start >= 0 else None
