"""When an account may be logged in: the rules that keep a wrong password from locking it."""

from datetime import date
from enum import StrEnum

import msgspec

CODE_STEP = "totp"
# A code is good for 30 s; a little later, so that the two clocks may differ.
CODE_PERIOD_SECONDS = 30.0
_CODE_SLACK_SECONDS = 1.0
_CODE_TRIES = 2
_DOUBLINGS_MAX = 30
# A session that Kite refuses so soon after it was minted is not cured by another one.
SHORT_LIFE_SECONDS = 900.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How careful to be.

    Attributes:
        first_delay_seconds: After the first login without an answer; doubles with each.
        delay_ceiling_seconds: No delay is longer.
        attempts_per_day: Logins begun in one session day, whatever became of them.
        interval_seconds: Between the beginnings of two logins of an account at least.
    """

    first_delay_seconds: float = 0.5
    delay_ceiling_seconds: float = 300.0
    attempts_per_day: int = 60
    interval_seconds: float = 30.0


class Verdict(StrEnum):
    """Whether an account may be logged in now."""

    GO = "go"
    WAIT = "wait"
    REFUSED = "refused"
    USED_UP = "used_up"


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an account's logins; times are seconds of one monotonic clock.

    Attributes:
        day: The session day that `attempts` are counted in; None before the market's time is
            known.
        attempts: Logins begun in that day.
        failures: In a row, without an answer from Kite.
        code_refusals: In a row, of the one-time code.
        short_lives: In a row, sessions that died within minutes of their minting.
        refused: Kite's words about these credentials; None while it has not refused them.
        not_before: No login begins earlier.
    """

    day: date | None = None
    attempts: int = 0
    failures: int = 0
    code_refusals: int = 0
    short_lives: int = 0
    refused: str | None = None
    not_before: float = float("-inf")


def verdict(history: History, now: float, limits: Limits) -> Verdict:
    """Say whether a login may begin."""
    if history.refused is not None:
        return Verdict.REFUSED
    if history.attempts >= limits.attempts_per_day:
        return Verdict.USED_UP
    return Verdict.WAIT if now < history.not_before else Verdict.GO


def on_day(history: History, day: date) -> History:
    """Note the session day: with a new one the attempts count from 0; a refusal stands."""
    if history.day is None:
        return msgspec.structs.replace(history, day=day)
    if day <= history.day:
        return history
    # Waiting times end too: what was tried yesterday says nothing about this morning.
    return History(day=day, refused=history.refused)


def begun(history: History, now: float, limits: Limits) -> History:
    """A login begins."""
    return msgspec.structs.replace(
        history, attempts=history.attempts + 1, not_before=now + limits.interval_seconds
    )


def unanswered(history: History, now: float, limits: Limits, jitter: float) -> History:
    """A login ended without an answer: wait, twice as long each time.

    Args:
        history: So far.
        now: When it ended.
        limits: First and longest delay.
        jitter: From 0 to 1, drawn anew each time: the delay is between half and all of the step.
    """
    step = limits.first_delay_seconds * 2.0 ** min(history.failures, _DOUBLINGS_MAX)
    delay = min(limits.delay_ceiling_seconds, step) * (0.5 + jitter / 2)
    # Nobody was logged in, so the distance between two logins does not count here.
    return msgspec.structs.replace(history, failures=history.failures + 1, not_before=now + delay)


def turned_down(
    history: History, now: float, *, step: str, reason: str, period_left_seconds: float
) -> History:
    """Kite refused: for good, except that a refused code is repeated once in the next period.

    Args:
        history: So far.
        now: When it was.
        step: Of the login that was refused.
        reason: Kite's words.
        period_left_seconds: Until the next one-time code begins.
    """
    if step == CODE_STEP and history.code_refusals + 1 < _CODE_TRIES:
        return msgspec.structs.replace(
            history,
            code_refusals=history.code_refusals + 1,
            not_before=now + period_left_seconds + _CODE_SLACK_SECONDS,
        )
    return msgspec.structs.replace(history, refused=f"{step}: {reason}")


def succeeded(history: History) -> History:
    """There is a session; how many logins it took today stays known."""
    return msgspec.structs.replace(history, failures=0, code_refusals=0, refused=None)


def died(history: History, now: float, limits: Limits, *, life_seconds: float) -> History:
    """Kite refused the session: one that lived for minutes only makes the next wait longer."""
    if life_seconds >= SHORT_LIFE_SECONDS:
        return msgspec.structs.replace(history, short_lives=0)
    delay = min(
        limits.delay_ceiling_seconds,
        limits.interval_seconds * 2.0 ** min(history.short_lives, _DOUBLINGS_MAX),
    )
    return msgspec.structs.replace(
        history,
        short_lives=history.short_lives + 1,
        # Not for the first one: somebody may have logged this account in elsewhere.
        not_before=max(history.not_before, now + delay if history.short_lives else now),
    )


def asked_by_a_person(history: History) -> History:
    """A person answers for the next login: what happened before does not count."""
    return History(day=history.day)
