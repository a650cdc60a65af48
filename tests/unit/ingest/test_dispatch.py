"""Dispatch: own accounts first, each account once a round, and waiting only for limits."""

import time
from collections import deque

import pytest

from libs.common.contracts.messages import RpcError
from services.ingest.account_desk import Call
from services.ingest.dispatch import Dispatch, Work
from services.ingest.domain.handover import Failure
from services.ingest.errors import AccountFailedError, RequestError

OK = "ok"


class Fleet:
    """Accounts that answer from a script, here and elsewhere; the last answer is repeated."""

    def __init__(self, own: str, elsewhere: str, **script: object) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.tried: list[list[str]] = []
        self._script = {
            name: deque(answers if isinstance(answers, list) else [answers])
            for name, answers in script.items()
        }
        desks = {name: _Desk(name) for name in own}
        self.dispatch = Dispatch(desks, lambda: [*own, *elsewhere])  # type: ignore[arg-type]

    def _answer(self, account):
        answers = self._script[account]
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if isinstance(answer, Failure):
            raise AccountFailedError(account, answer.value, retry_after_seconds=0.05)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def here(self, desk, until):
        """Answer as an account of this process; notes whether the call may wait."""
        self.asked.append((desk.account, until is not None))
        return self._answer(desk.account)

    async def there(self, account, tried, until):
        """Answer as an account of another process."""
        del until
        self.asked.append((account, False))
        self.tried.append(list(tried))
        return self._answer(account)

    async def serve(self, seconds=30.0, tried=""):
        """Find an account within the caller's patience."""
        work = Work(Call.HISTORY, self.here, self.there)
        return await self.dispatch.anywhere(work, until=time.monotonic() + seconds, tried=tried)


class _Desk:
    def __init__(self, account: str) -> None:
        self.account = account


async def code_of(work):
    with pytest.raises(RequestError) as caught:
        await work
    return caught.value.error.code


async def test_own_account_serves_and_nobody_else_is_asked():
    fleet = Fleet("a", "bc", a=OK, b=OK, c=OK)
    assert await fleet.serve() == ("a", OK)
    assert fleet.asked == [("a", False)]


async def test_own_accounts_take_turns():
    fleet = Fleet("ab", "", a=OK, b=OK)
    assert [(await fleet.serve()).account for _ in range(4)] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    "failure",
    [Failure.LIMITED, Failure.SESSION_REFUSED, Failure.UNAVAILABLE, Failure.NOT_PERMITTED],
)
async def test_next_account_is_told_who_was_tried(failure):
    fleet = Fleet("a", "bc", a=failure, b=Failure.NO_RESPONDER, c=OK)
    assert await fleet.serve() == ("c", OK)
    assert fleet.asked == [("a", False), ("b", False), ("c", False)]
    assert fleet.tried == [["a"], ["a", "b"]]


async def test_when_all_are_limited_the_own_account_is_waited_for():
    fleet = Fleet("a", "b", a=[Failure.LIMITED, OK], b=Failure.LIMITED)
    assert await fleet.serve() == ("a", OK)
    assert fleet.asked == [("a", False), ("b", False), ("a", True)]


async def test_limit_that_kite_itself_sets_after_the_wait_starts_another_round():
    limited = Failure.LIMITED
    fleet = Fleet("a", "b", a=[limited, limited, limited, OK], b=limited)
    assert await fleet.serve() == ("a", OK)
    assert fleet.asked == [("a", False), ("b", False), ("a", True)] * 2


async def test_without_a_usable_own_account_another_ones_limit_is_waited_for():
    fleet = Fleet("a", "b", a=Failure.NO_SESSION, b=[Failure.LIMITED, OK])
    assert await fleet.serve() == ("b", OK)


async def test_full_line_ends_the_search():
    fleet = Fleet("a", "b", a=[Failure.LIMITED, Failure.CROWDED], b=Failure.LIMITED)
    assert await code_of(fleet.serve()) == "rate_limited"
    assert len(fleet.asked) == 3


async def test_patience_ends_the_search():
    fleet = Fleet("a", "b", a=Failure.NO_SESSION, b=Failure.LIMITED)
    assert await code_of(fleet.serve(seconds=0.2)) == "rate_limited"


async def test_what_waiting_does_not_help_fails_after_one_round():
    fleet = Fleet("a", "b", a=Failure.UNAVAILABLE, b=Failure.NO_RESPONDER)
    assert await code_of(fleet.serve()) == "unavailable"
    assert fleet.asked == [("a", False), ("b", False)]


async def test_wrong_request_is_not_taken_to_the_next_account():
    wrong = RequestError(RpcError(code="bad_request", message="no"))
    fleet = Fleet("a", "b", a=wrong, b=OK)
    assert await code_of(fleet.serve()) == "bad_request"
    assert fleet.asked == [("a", False)]


async def test_accounts_of_the_header_are_left_out():
    fleet = Fleet("a", "bc", a=OK, b=OK, c=OK)
    assert await fleet.serve(tried="a,b") == ("c", OK)
    assert fleet.asked == [("c", False)]


@pytest.mark.parametrize("may_wait", [False, True])
async def test_account_that_is_asked_alone_never_hands_over(may_wait):
    fleet = Fleet("a", "b", a=[Failure.LIMITED, OK], b=OK)
    work = Work(Call.QUOTE, fleet.here, fleet.there)
    asking = fleet.dispatch.alone(work, "a", until=time.monotonic() + 30, may_wait=may_wait)
    if may_wait:
        assert await asking == ("a", OK)
    else:
        assert await code_of(asking) == "rate_limited"
    assert {account for account, _ in fleet.asked} == {"a"}


async def test_account_that_this_process_does_not_hold_has_no_session():
    fleet = Fleet("a", "b", a=OK, b=OK)
    work = Work(Call.QUOTE, fleet.here, fleet.there)
    asking = fleet.dispatch.alone(work, "b", until=time.monotonic() + 30, may_wait=True)
    assert await code_of(asking) == "no_account"
