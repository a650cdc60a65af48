"""Writes the table of exchange holidays from exchange_calendars, which runtime does not import.

Run `python -m tests.golden.generate_holidays` after updating exchange_calendars or to add a year.
"""

import warnings
from datetime import date, timedelta
from pathlib import Path

FIRST_DAY = date(2024, 1, 1)
LAST_DAY = date(2026, 12, 31)
TARGET = Path(__file__).parents[2] / "libs" / "common" / "domain" / "holidays.py"

_HEAD = '''"""Weekday closures of NSE and BSE; generated, see ADR 0003.

Do not edit: corrections belong into `trading_hours.py`, new years come from
`python -m tests.golden.generate_holidays` (calendar XBOM of exchange_calendars {version}).
"""

from datetime import date
from typing import Final

FIRST_DAY: Final = date({first.year}, {first.month}, {first.day})
"""First day the table speaks of."""

LAST_DAY: Final = date({last.year}, {last.month}, {last.day})
"""Last day the table speaks of; beyond it only weekends are known to be closed."""

WEEKDAY_CLOSURES: Final = frozenset(
    date.fromisoformat(day)
    for day in (
'''


def weekday_closures(first: date = FIRST_DAY, last: date = LAST_DAY) -> list[date]:
    """Weekdays on which calendar XBOM has no session, ascending, both ends included."""
    # Here: it drags pandas in, and the test that only reads TARGET should not pay for it.
    from exchange_calendars import get_calendar

    with warnings.catch_warnings():
        # It uses what the newest pandas deprecates; that is between the two of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        sessions = {stamp.date() for stamp in get_calendar("XBOM", start=first, end=last).sessions}
    days = (first + timedelta(days=offset) for offset in range((last - first).days + 1))
    return [day for day in days if day.weekday() < 5 and day not in sessions]


def render() -> str:
    """The text of the generated module."""
    from importlib.metadata import version

    head = _HEAD.format(version=version("exchange-calendars"), first=FIRST_DAY, last=LAST_DAY)
    rows = "".join(f'        "{day.isoformat()}",  # {day:%A}\n' for day in weekday_closures())
    return f"{head}{rows}    )\n)\n"


if __name__ == "__main__":
    TARGET.write_text(render())
    print(f"wrote {TARGET.name}: {FIRST_DAY} to {LAST_DAY}")
