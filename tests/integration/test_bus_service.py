"""Services on the bus: bounded, found by the micro protocol, coming and going, stopped gently."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    BusUnavailableError,
    NoResponderError,
    RequestTimeoutError,
)
from libs.common.bus.requests import request_stream
from libs.common.bus.service import Refusal, RequestService
from tests.integration.conftest import settings_for, until

pytestmark = pytest.mark.integration


@asynccontextmanager
async def service(bus, *, name="test-service", concurrency=10, stop_seconds=5.0):
    async with RequestService.opened(
        bus,
        name=name,
        version="1.2.3",
        description="For tests.",
        queue_group="testers",
        concurrency=concurrency,
        stop_seconds=stop_seconds,
        metadata={"worker": "w1"},
    ) as served:
        yield served


async def echo(request):
    await request.respond(b"echo " + request.payload)


def refused(why):
    return f"refused {why}".encode()


async def ask(bus, subject, payload=b"", seconds=10.0):
    return (await bus.request(subject, payload, seconds)).payload


async def every(bus, subject):
    """All answers to a request that several may answer, until it is quiet."""
    found = []
    async with request_stream(
        bus, subject, b"", is_last=lambda _: False, timeout_seconds=0.5
    ) as answers:
        try:
            async for answer in answers:
                found += [json.loads(answer.payload)]
        except RequestTimeoutError:
            return found
    raise AssertionError("never quiet")


async def listed(bus, name):
    """The subjects that `$SRV.INFO` lists for a service."""
    info = json.loads(await ask(bus, f"$SRV.INFO.{name}"))
    return {endpoint["subject"] for endpoint in info["endpoints"]}


async def test_endpoint_is_found_by_the_micro_protocol_and_counts_whole_requests(bus):
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        await request.respond(b"done")

    async with service(bus) as served:
        await served.serve("t.slow", slow, name="slow", refusal=refused)
        assert [ping["name"] for ping in await every(bus, "$SRV.PING")] == ["test-service"]
        info = json.loads(await ask(bus, "$SRV.INFO.test-service"))
        assert info["version"] == "1.2.3"
        assert info["metadata"] == {"worker": "w1"}
        assert info["endpoints"] == [
            {"name": "slow", "subject": "t.slow", "queue_group": "testers", "metadata": None}
        ]
        asking = asyncio.create_task(ask(bus, "t.slow"))
        stats: dict[str, Any] = {}
        while stats.get("data", {}).get("running") != 1:
            stats = json.loads(await ask(bus, "$SRV.STATS.test-service"))["endpoints"][0]
        release.set()
        assert await asking == b"done"
        stats = json.loads(await ask(bus, "$SRV.STATS.test-service"))["endpoints"][0]
        assert (stats["num_requests"], stats["num_errors"]) == (1, 0)
        # nats.micro alone would have counted the start of the task only.
        assert stats["processing_time"] > 0
        assert stats["data"] == {"refused": 0, "failed": 0, "running": 0}


async def test_requests_run_side_by_side_up_to_the_bound_and_the_next_is_refused_at_once(bus):
    release, running = asyncio.Event(), []

    async def slow(request):
        running.append(request.payload)
        await release.wait()
        await request.respond(b"done")

    async with service(bus, concurrency=3) as served:
        await served.serve("t.slow", slow, name="slow", refusal=refused)
        asking = [asyncio.create_task(ask(bus, "t.slow", b"%d" % n)) for n in range(3)]
        await until(lambda: len(running) == 3)
        answer = await bus.request("t.slow", b"late", 10.0)
        assert answer.payload == b"refused busy"
        assert answer.headers == {"Nats-Service-Error": "busy", "Nats-Service-Error-Code": "503"}
        release.set()
        assert await asyncio.gather(*asking) == [b"done"] * 3
        assert await ask(bus, "t.slow", b"again") == b"done"
        assert b"late" not in running


async def test_handler_that_raises_is_answered_and_the_service_goes_on(bus):
    async def fails(request):
        if request.payload == b"bad":
            raise LookupError("a secret")
        await request.respond(b"fine")

    async with service(bus) as served:
        await served.serve("t.fails", fails, name="fails", refusal=refused)
        answer = await bus.request("t.fails", b"bad", 10.0)
        assert answer.payload == b"refused failed"
        assert answer.headers is not None
        assert answer.headers["Nats-Service-Error-Code"] == "500"
        assert await ask(bus, "t.fails", b"good") == b"fine"
        stats = await ask(bus, "$SRV.STATS.test-service")
        assert json.loads(stats)["endpoints"][0]["last_error"] == "LookupError"
        assert b"a secret" not in stats


async def test_endpoints_come_and_go_while_the_service_runs(bus):
    async with service(bus) as served:
        with pytest.raises(NoResponderError):
            await ask(bus, "t.echo")
        await served.serve("t.echo", echo, name="echo", refusal=refused)
        await served.serve("t.echo", echo, name="echo", refusal=refused)
        await served.serve("t.other", echo, name="other", refusal=refused)
        assert await ask(bus, "t.echo", b"1") == b"echo 1"
        assert await listed(bus, "test-service") == {"t.echo", "t.other"}
        await served.withdraw("t.echo")
        await served.withdraw("t.echo")
        with pytest.raises(NoResponderError):
            await ask(bus, "t.echo")
        assert await listed(bus, "test-service") == served.subjects == {"t.other"}
        await served.serve("t.echo", echo, name="echo", refusal=refused)
        assert await ask(bus, "t.echo", b"2") == b"echo 2"


async def test_two_services_share_the_requests_of_a_subject(nats_server):
    served_by: dict[str, int] = {"a": 0, "b": 0}

    def counting(name):
        async def handle(request):
            served_by[name] += 1
            await request.respond(name.encode())

        return handle

    settings = settings_for(nats_server)
    async with (
        Bus.open(settings, name="a") as a,
        Bus.open(settings, name="b") as b,
        service(a) as first,
        service(b) as second,
    ):
        await first.serve("t.both", counting("a"), name="both", refusal=refused)
        await second.serve("t.both", counting("b"), name="both", refusal=refused)
        await b.client.flush()
        for _ in range(60):
            await ask(a, "t.both")
        assert sum(served_by.values()) == 60
        assert min(served_by.values()) > 0


async def test_endpoints_survive_a_restart_of_the_server(nats_server, bus):
    async with service(bus) as served:
        await served.serve("t.echo", echo, name="echo", refusal=refused)
        await served.serve("t.gone", echo, name="gone", refusal=refused)
        nats_server.kill()
        await until(lambda: not bus.is_connected)
        await served.withdraw("t.gone")
        nats_server.start()
        await until(lambda: bus.is_connected, seconds=30)
        assert await ask(bus, "t.echo", b"1") == b"echo 1"
        assert await listed(bus, "test-service") == {"t.echo"}
        with pytest.raises(NoResponderError):
            await ask(bus, "t.gone")


async def test_service_that_starts_while_the_server_is_away_is_found_later(nats_server, bus):
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    async with service(bus) as served:
        await served.serve("t.echo", echo, name="echo", refusal=refused)
        assert served.subjects == {"t.echo"}
        nats_server.start()
        await until(lambda: bus.is_connected, seconds=30)
        assert await ask(bus, "t.echo", b"1") == b"echo 1"
        assert await listed(bus, "test-service") == {"t.echo"}


async def test_stop_finishes_what_runs_and_refuses_what_is_new(nats_server, bus):
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(request):
        started.set()
        await release.wait()
        await request.respond(b"done")

    stopped = asyncio.Event()

    async def serve(stop):
        async with service(bus, stop_seconds=30) as served:
            await served.serve("t.slow", slow, name="slow", refusal=refused)
            ready.set()
            await stop.wait()
        stopped.set()

    ready, stop = asyncio.Event(), asyncio.Event()
    async with Bus.open(settings_for(nats_server), name="caller") as caller:
        serving = asyncio.create_task(serve(stop))
        await until(ready.is_set)
        asking = asyncio.create_task(ask(caller, "t.slow", seconds=30))
        await until(started.is_set)
        stop.set()
        async with asyncio.timeout(30):
            while True:
                # Refused while the subscription drains, then served by nobody.
                try:
                    assert await ask(caller, "t.slow") == b"refused stopping"
                except NoResponderError:
                    break
        assert not stopped.is_set()
        release.set()
        assert await asking == b"done"
        await serving


async def test_request_that_outlasts_the_stop_is_answered_as_stopping(nats_server, bus):
    started = asyncio.Event()

    async def endless(request):
        del request
        started.set()
        await asyncio.Event().wait()

    async with Bus.open(settings_for(nats_server), name="caller") as caller:
        async with service(bus, stop_seconds=0.1) as served:
            await served.serve("t.endless", endless, name="endless", refusal=refused)
            asking = asyncio.create_task(ask(caller, "t.endless", seconds=30))
            await until(started.is_set)
        assert await asking == b"refused stopping"


async def test_request_without_reply_subject_is_handled_and_answered_to_nobody(bus):
    seen = []

    async def note(request):
        seen.append((request.payload, await request.respond(b"x")))

    async with service(bus) as served:
        await served.serve("t.note", note, name="note", refusal=refused)
        await bus.publish("t.note", b"told")
        await until(lambda: seen)
        assert seen == [(b"told", True)]


async def test_handler_learns_that_its_caller_has_left(bus):
    left, finished, sent = asyncio.Event(), asyncio.Event(), []

    async def handle(request):
        await request.respond(b"1")
        await left.wait()
        while not request.is_abandoned:
            sent.append(await request.respond(b"more"))
            await asyncio.sleep(0.01)
        finished.set()

    async with service(bus) as served:
        await served.serve("t.parts", handle, name="parts", refusal=refused)
        async with request_stream(
            bus, "t.parts", b"", is_last=is_end, timeout_seconds=10
        ) as answers:
            assert (await anext(answers)).payload == b"1"
        left.set()
        await until(finished.is_set)
        assert sent


async def test_caller_that_listens_is_not_taken_for_gone(bus):
    flags = []

    async def handle(request):
        for _ in range(50):
            await request.respond(b"part")
            await asyncio.sleep(0)
            flags.append(request.is_abandoned)
        await request.respond(b"end")

    async with service(bus) as served:
        await served.serve("t.parts", handle, name="parts", refusal=refused)
        async with request_stream(
            bus, "t.parts", b"", is_last=is_end, timeout_seconds=10
        ) as answers:
            assert len([answer async for answer in answers]) == 51
    assert flags == [False] * 50


def test_every_refusal_has_a_word():
    assert {why.value for why in Refusal} == {"busy", "stopping", "failed"}


@asynccontextmanager
async def counting_to(bus, count):
    """A service that answers with the numbers up to `count`, then says `end`."""

    async def handle(request):
        for number in range(count):
            await request.respond(b"%d" % number)
        if request.payload != b"endless":
            await request.respond(b"end")

    async with service(bus, name="counter") as served:
        await served.serve("t.count", handle, name="count", refusal=refused)
        yield served


def is_end(message):
    return message.payload == b"end"


async def test_stream_gives_every_answer_in_order_and_ends_after_the_last(bus):
    async with (
        counting_to(bus, 500),
        request_stream(bus, "t.count", b"", is_last=is_end, timeout_seconds=10) as answers,
    ):
        found = [answer.payload async for answer in answers]
        assert found == [b"%d" % number for number in range(500)] + [b"end"]
        assert [answer async for answer in answers] == []


async def test_stream_without_responder_says_so_at_once(bus):
    async with request_stream(bus, "t.nobody", b"", is_last=is_end, timeout_seconds=60) as answers:
        with pytest.raises(NoResponderError, match=r"t\.nobody"):
            await anext(answers)


async def test_stream_that_dries_up_ends_with_a_timeout(bus):
    async with (
        counting_to(bus, 3),
        request_stream(bus, "t.count", b"endless", is_last=is_end, timeout_seconds=0.3) as answers,
    ):
        for _ in range(3):
            await anext(answers)
        with pytest.raises(RequestTimeoutError):
            await anext(answers)


@pytest.mark.parametrize("way", ["whole", "broken off", "raised", "cancelled", "no responder"])
async def test_stream_leaves_no_subscription_behind(bus, way):
    async with counting_to(bus, 50):
        before = set(bus.client._subs)

        async def use():
            subject = "t.nobody" if way == "no responder" else "t.count"
            async with request_stream(
                bus, subject, b"", is_last=is_end, timeout_seconds=10
            ) as answers:
                async for answer in answers:
                    if way == "broken off":
                        break
                    if way == "raised":
                        raise LookupError
                    if way == "cancelled" and answer.payload == b"3":
                        reached.set()
                        await asyncio.Event().wait()

        reached = asyncio.Event()
        task = asyncio.create_task(use())
        if way == "cancelled":
            await until(reached.is_set)
            task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        expected = {
            "raised": LookupError,
            "cancelled": asyncio.CancelledError,
            "no responder": NoResponderError,
        }.get(way, type(None))
        assert isinstance(results[0], expected)
        assert set(bus.client._subs) == before


async def test_stream_is_refused_while_the_connection_is_away(nats_server, bus):
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    with pytest.raises(BusUnavailableError):
        async with request_stream(bus, "t.count", b"", is_last=is_end, timeout_seconds=1):
            pass
