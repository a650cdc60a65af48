"""How a worker gets the answer of a shard that it does not hold, on a bus that plays the owner."""

from types import SimpleNamespace
from typing import Any

import pytest

from libs.common.bus.errors import (
    BusUnavailableError,
    NoResponderError,
    RequestTimeoutError,
)
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import ExplainReply, ExplainRequest
from services.greeks import explanations
from services.greeks.errors import RequestError
from services.greeks.explanations import Explanations
from services.greeks.instrument_index import InstrumentIndex
from services.greeks.settings import GreeksSettings
from tests.fakes.kite_frames import FakeMarket

MARKET = FakeMarket(strikes_each_side=1)
SETTINGS = GreeksSettings(shards=4)
SHARD = subjects.shard_of("NIFTY", 4)
REQUEST = codec.to_json(ExplainRequest(instrument_token=MARKET.options[0].instrument_token))


class OwnersBus:
    """Answers requests from a list; an error in it is raised."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.asked: list[str] = []
        self._answers = iter(answers)

    async def request(self, subject: str, payload: bytes, timeout_seconds: float) -> Any:
        """Give the next answer."""
        assert (payload, timeout_seconds) == (REQUEST, explanations.OWNER_SECONDS)
        self.asked.append(subject)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(payload=answer)


async def answer(bus: OwnersBus, request: bytes = REQUEST) -> bytes:
    packed = codec.to_msgpack(MARKET.instrument_set())
    index = InstrumentIndex({"NIFTY": packed}.get)
    index.note("NIFTY")
    owners: Any = bus
    return await Explanations(owners, SETTINGS, index, {})._answer(request, None)


async def test_the_owners_answer_is_passed_on_byte_for_byte():
    bus = OwnersBus(b"whatever the owner says")
    assert await answer(bus) == b"whatever the owner says"
    assert bus.asked == [subjects.rpc_explain_of(SHARD)]


async def test_a_frozen_worker_beside_the_owner_costs_time_and_no_answer():
    silence = RequestTimeoutError("rpc", 1.0)
    bus = OwnersBus(silence, silence, b"answer")
    assert await answer(bus) == b"answer"


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        ([RequestTimeoutError("rpc", 1.0)] * 3, "the owner of shard"),
        ([NoResponderError("rpc")], "no worker owns shard"),
        ([BusUnavailableError("not connected")], "not connected"),
    ],
)
async def test_without_an_answer_of_the_owner_the_option_is_unavailable_for_now(errors, says):
    bus = OwnersBus(*errors)
    with pytest.raises(RequestError, match=says) as caught:
        await answer(bus)
    assert caught.value.error.code == "unavailable"
    assert caught.value.error.retry_after_seconds == 1
    assert len(bus.asked) == len(errors)


async def test_a_request_that_is_none_reaches_no_owner():
    bus = OwnersBus()
    with pytest.raises(RequestError, match="bad_request"):
        await answer(bus, codec.to_json(ExplainReply()))
    assert not bus.asked
