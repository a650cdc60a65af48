"""The waiting line: in order, bounded, and never past the deadline."""

import asyncio
import time

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from libs.common.resilience.calendar_limiter import CalendarLimiter
from services.ingest.settings import IngestSettings
from services.ingest.waiting_line import WaitingLine

SECOND = 1_000_000_000


def line(limit=1, *, at_most=10):
    return WaitingLine(CalendarLimiter(limit), call="test", at_most=at_most)


def later(seconds=60.0):
    return time.monotonic() + seconds


async def test_calls_are_given_out_in_the_order_asked_for():
    waiting, order = line(), []

    async def take(number):
        assert await waiting.take(later())
        order.append(number)

    assert waiting.try_take()
    await asyncio.gather(*(take(number) for number in range(3)))
    assert order == [0, 1, 2]
    assert waiting.waiting == 0


async def test_nobody_overtakes_who_waits():
    waiting = line(2)
    assert waiting.try_take()
    assert waiting.try_take()
    task = asyncio.create_task(waiting.take(later()))
    await asyncio.sleep(0)
    assert waiting.waiting == 1
    # Even a call that is free belongs to the one who waits.
    waiting._limiter = CalendarLimiter(2)
    assert not waiting.try_take()
    assert await task


async def test_one_too_many_is_sent_away_at_once():
    waiting = line(at_most=2)
    assert waiting.try_take()
    tasks = [asyncio.create_task(waiting.take(later())) for _ in range(2)]
    await asyncio.sleep(0)
    assert not await waiting.take(later())
    assert waiting.waiting == 2
    assert await asyncio.gather(*tasks) == [True, True]


async def test_turn_that_would_come_too_late_is_refused_at_once():
    waiting = line()
    assert waiting.try_take()
    assert waiting.expected_seconds > 0.5
    assert not await waiting.take(later(0.1))
    assert waiting.waiting == 0


async def test_turn_that_does_come_too_late_is_given_up_and_costs_no_call():
    waiting = line()
    assert waiting.try_take()
    first = asyncio.create_task(waiting.take(later()))
    await asyncio.sleep(0)
    waiting._limiter.refused(time.monotonic_ns() + SECOND)
    second = asyncio.create_task(waiting.take(later(3.2)))
    await asyncio.sleep(0)
    waiting._limiter.refused(time.monotonic_ns() + 4 * SECOND)
    assert not await second
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert waiting.waiting == 0


async def test_cancelled_waiter_frees_its_place():
    waiting = line()
    assert waiting.try_take()
    task = asyncio.create_task(waiting.take(later()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert waiting.waiting == 0
    assert await waiting.take(later())


def test_settings_must_leave_a_call_to_use():
    key = SecretStr(Fernet.generate_key().decode())
    with pytest.raises(ValueError, match="HISTORY_SPARE_PER_SECOND"):
        IngestSettings(account_encryption_key=key, history_spare_per_second=3)
    settings = IngestSettings(account_encryption_key=key, history_spare_per_second=2)
    assert (settings.history_per_second, settings.quotes_per_second) == (3, 1)
