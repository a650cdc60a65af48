"""One account's calls: what each answer of Kite means for the session, the line and the caller."""

import asyncio
import time

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from libs.common.contracts.messages import KiteSession, Source
from libs.common.kite.errors import (
    KiteInputError,
    KitePermissionError,
    KiteRateLimitedError,
    KiteTokenError,
    KiteUnavailableError,
)
from services.ingest.account_desk import AccountDesk, Call, CallLines
from services.ingest.domain.handover import Failure
from services.ingest.errors import AccountFailedError, RequestError
from services.ingest.settings import IngestSettings

SETTINGS = IngestSettings(account_encryption_key=SecretStr(Fernet.generate_key().decode()))


def session(minted_at_ns=1, **changes):
    values = {
        "account": "a",
        "api_key": "key",
        "access_token": f"token-{minted_at_ns}",
        "user_id": "AB1234",
        "ws_url": "ws://kite.test",
        "api_url": "http://kite.test",
        "source": Source.SIM,
        "minted_at_ns": minted_at_ns,
        **changes,
    }
    return KiteSession(**values)


class Feed:
    """What a desk knows of its account's feed."""

    account = "a"

    def __init__(self, usable: KiteSession | None) -> None:
        self.usable_session = usable
        self.refused: list[tuple[int, str]] = []

    def refuse_session(self, minted_at_ns: int, reason: str) -> None:
        """Note it, and have no session any more."""
        self.refused.append((minted_at_ns, reason))
        self.usable_session = None


def desk(usable=None):
    feed = Feed(usable)
    return AccountDesk(feed, CallLines(SETTINGS)), feed  # type: ignore[arg-type]


def answering(*answers):
    """A call that gives or raises one answer after the other, and notes with what it was made."""
    queue, seen = list(answers), []

    async def work(access):
        seen.append(access)
        answer = queue.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return work, seen


async def failure_of(call):
    with pytest.raises(AccountFailedError) as caught:
        await call
    return caught.value


async def test_429_leaves_the_rest_of_kites_second_alone_though_calls_are_left():
    own, _ = desk(session())
    work, seen = answering(KiteRateLimitedError(call="x"), "ok")
    error = await failure_of(own.call(Call.HISTORY, work, until=None))
    assert error.failure == Failure.LIMITED
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds > 0.5
    # Two of three calls are left by our own count, and still none is made at once.
    error = await failure_of(own.call(Call.HISTORY, work, until=None))
    assert (error.failure, len(seen)) == (Failure.LIMITED, 1)
    assert await own.call(Call.HISTORY, work, until=time.monotonic() + 30) == "ok"


async def test_kinds_of_calls_have_limits_of_their_own():
    own, _ = desk(session())
    work, _ = answering(1, 2, 3, 4)
    assert [await own.call(Call.HISTORY, work, until=None) for _ in range(3)] == [1, 2, 3]
    assert (await failure_of(own.call(Call.HISTORY, work, until=None))).failure == Failure.LIMITED
    assert await own.call(Call.QUOTE, work, until=None) == 4
    assert (await failure_of(own.call(Call.QUOTE, work, until=None))).failure == Failure.LIMITED


async def test_limit_belongs_to_the_key_and_outlives_the_session():
    own, feed = desk(session(1))
    work, _ = answering("ok", "other key")
    await own.call(Call.QUOTE, work, until=None)
    feed.usable_session = session(2)
    assert (await failure_of(own.call(Call.QUOTE, work, until=None))).failure == Failure.LIMITED
    feed.usable_session = session(3, api_key="another")
    assert await own.call(Call.QUOTE, work, until=None) == "other key"


async def test_dead_token_is_reported_with_the_session_it_belongs_to():
    own, feed = desk(session(7))
    work, seen = answering(KiteTokenError(call="x", reason="expired"), "unused")
    error = await failure_of(own.call(Call.QUOTE, work, until=None))
    assert error.failure == Failure.SESSION_REFUSED
    assert feed.refused == [(7, "expired")]
    assert not own.is_open
    error = await failure_of(own.call(Call.HISTORY, work, until=None))
    assert (error.failure, len(seen)) == (Failure.NO_SESSION, 1)


async def test_missing_permission_is_asked_for_once_a_session_and_kind():
    own, feed = desk(session(1))
    work, seen = answering(KitePermissionError(call="x", reason="subscribe"), "quote", "again")
    error = await failure_of(own.call(Call.HISTORY, work, until=None))
    assert error.failure == Failure.NOT_PERMITTED
    error = await failure_of(own.call(Call.HISTORY, work, until=None))
    assert (error.failure, len(seen)) == (Failure.NOT_PERMITTED, 1)
    assert feed.refused == []
    assert await own.call(Call.QUOTE, work, until=None) == "quote"
    feed.usable_session = session(2)
    assert await own.call(Call.HISTORY, work, until=None) == "again"


async def test_fault_of_kite_and_wrong_parameters_are_told_apart():
    own, _ = desk(session())
    work, _ = answering(
        KiteUnavailableError(call="x", reason="504"), KiteInputError(call="x", reason="bad day")
    )
    error = await failure_of(own.call(Call.HISTORY, work, until=None))
    assert error.failure == Failure.UNAVAILABLE
    with pytest.raises(RequestError, match="bad day") as caught:
        await own.call(Call.HISTORY, work, until=None)
    assert caught.value.error.code == "bad_request"


async def test_call_is_made_with_the_session_that_is_in_force_after_the_wait():
    own, feed = desk(session(1))
    work, seen = answering("first", "second")
    await own.call(Call.QUOTE, work, until=None)
    waiting = asyncio.create_task(own.call(Call.QUOTE, work, until=time.monotonic() + 30))
    await asyncio.sleep(0)
    feed.usable_session = session(2)
    assert await waiting == "second"
    assert [access.access_token for access in seen] == ["token-1", "token-2"]


@pytest.mark.parametrize(
    ("changes", "root"),
    [
        ({}, "http://kite.test"),
        ({"api_url": None, "source": Source.LIVE}, "https://api.kite.trade"),
        ({"api_url": None, "source": Source.SIM}, None),
    ],
)
async def test_session_of_an_older_control_goes_to_kite_only_when_it_is_live(changes, root):
    own, _ = desk(session(**changes))
    work, seen = answering("ok")
    assert own.is_open is (root is not None)
    if root is None:
        error = await failure_of(own.call(Call.QUOTE, work, until=None))
        assert error.failure == Failure.NO_SESSION
    else:
        await own.call(Call.QUOTE, work, until=None)
        assert seen[0].root == root
