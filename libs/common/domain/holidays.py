"""Weekday closures of NSE and BSE; generated, see ADR 0003.

Do not edit: corrections belong into `trading_hours.py`, new years come from
`python -m tests.golden.generate_holidays` (calendar XBOM of exchange_calendars 4.13.2).
"""

from datetime import date
from typing import Final

FIRST_DAY: Final = date(2024, 1, 1)
"""First day the table speaks of."""

LAST_DAY: Final = date(2026, 12, 31)
"""Last day the table speaks of; beyond it only weekends are known to be closed."""

WEEKDAY_CLOSURES: Final = frozenset(
    date.fromisoformat(day)
    for day in (
        "2024-01-22",  # Monday
        "2024-01-26",  # Friday
        "2024-03-08",  # Friday
        "2024-03-25",  # Monday
        "2024-03-29",  # Friday
        "2024-04-11",  # Thursday
        "2024-04-17",  # Wednesday
        "2024-05-01",  # Wednesday
        "2024-05-20",  # Monday
        "2024-06-17",  # Monday
        "2024-07-17",  # Wednesday
        "2024-08-15",  # Thursday
        "2024-10-02",  # Wednesday
        "2024-11-01",  # Friday
        "2024-11-15",  # Friday
        "2024-11-20",  # Wednesday
        "2024-12-25",  # Wednesday
        "2025-02-26",  # Wednesday
        "2025-03-14",  # Friday
        "2025-03-31",  # Monday
        "2025-04-10",  # Thursday
        "2025-04-14",  # Monday
        "2025-04-18",  # Friday
        "2025-05-01",  # Thursday
        "2025-08-15",  # Friday
        "2025-08-27",  # Wednesday
        "2025-10-02",  # Thursday
        "2025-10-21",  # Tuesday
        "2025-10-22",  # Wednesday
        "2025-11-05",  # Wednesday
        "2025-12-25",  # Thursday
        "2026-01-15",  # Thursday
        "2026-01-26",  # Monday
        "2026-03-03",  # Tuesday
        "2026-03-26",  # Thursday
        "2026-03-31",  # Tuesday
        "2026-04-03",  # Friday
        "2026-04-14",  # Tuesday
        "2026-05-01",  # Friday
        "2026-05-28",  # Thursday
        "2026-06-26",  # Friday
        "2026-09-14",  # Monday
        "2026-10-02",  # Friday
        "2026-10-20",  # Tuesday
        "2026-11-10",  # Tuesday
        "2026-11-24",  # Tuesday
        "2026-12-25",  # Friday
    )
)
