"""When a Kite session ends: which session day an instant belongs to, and what is left of it."""

from datetime import date, datetime, time, timedelta
from typing import Final

from libs.common.domain.clock import IST

SESSIONS_END: Final = time(6, 0)
"""Kite kills every access token at 06:00 IST."""

LOGIN_TIME: Final = time(6, 5)
"""From then on a new token is asked for."""


def session_day(moment: datetime) -> date:
    """The session day of an instant: it begins at 06:05 IST and lasts until the next.

    Saturdays, Sundays and holidays are days like any other: Kite's tokens die on them too.

    Args:
        moment: Aware, of any zone.

    Raises:
        ValueError: `moment` is naive.
    """
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone to belong to a session day")
    local = moment.astimezone(IST)
    return local.date() if local.time() >= LOGIN_TIME else local.date() - timedelta(days=1)


def day_begins(day: date) -> datetime:
    """The first instant of a session day."""
    return datetime.combine(day, LOGIN_TIME, tzinfo=IST)


def is_over(minted: datetime, now: datetime) -> bool:
    """Whether a session has to be renewed: a 06:05 IST lies between its minting and now."""
    return session_day(minted) < session_day(now)


def is_pause(now: datetime) -> bool:
    """Whether it is between the end of the sessions and the time for new ones: nobody logs in.

    A login in these minutes would be repeated at 06:05.
    """
    return SESSIONS_END <= now.astimezone(IST).time() < LOGIN_TIME
