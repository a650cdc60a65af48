"""Serves requests as a NATS micro service: found by `nats service`, bounded, stopped gracefully.

nats-py's own endpoint awaits its handler before it takes the next request, cannot be removed, and
counts only what happens inside that await. Here every request runs in a task of its own, and
learns when its caller is gone.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, Protocol, Self

import msgspec
import nats.errors
from nats.aio.subscription import Subscription
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER, Request
from nats.micro.service import Endpoint as MicroEndpoint
from nats.micro.service import EndpointConfig, EndpointStats, Service, ServiceConfig

from libs.common import logs
from libs.common.bus import metrics
from libs.common.bus.connection import Bus, BusMessage, PublishOutcome
from libs.common.bus.errors import BusUnavailableError, translated
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts.messages import RpcError

log = logs.get_logger(__name__)

# For the server's part in ending a subscription; the bus itself notices a dead server by then.
_SERVER_SECONDS = 2.0
_FLUSH_SECONDS = 2
_CODES = {"busy": "503", "stopping": "503", "failed": "500"}


class Refusal(StrEnum):
    """Why a request was not handled to its end."""

    BUSY = "busy"
    STOPPING = "stopping"
    FAILED = "failed"

    @property
    def error(self) -> RpcError:
        """What the caller is told."""
        return _REFUSALS[self]


_REFUSALS: Final = {
    Refusal.BUSY: RpcError(
        code="unavailable",
        message="too many requests are being served",
        retry_after_seconds=1.0,
    ),
    Refusal.STOPPING: RpcError(
        code="unavailable", message="this process is stopping", retry_after_seconds=0.0
    ),
    Refusal.FAILED: RpcError(code="unavailable", message="a fault of the service; see its log"),
}


class ServiceRequest(Protocol):
    """One request, as its handler sees it."""

    @property
    def subject(self) -> str:
        """Where it was sent."""

    @property
    def payload(self) -> bytes:
        """Its bytes."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers; empty when it has none."""

    @property
    def is_abandoned(self) -> bool:
        """Whether an earlier answer reached nobody: further ones are not worth the work."""

    async def respond(self, payload: bytes) -> bool:
        """Send an answer, or one of several; False when it was dropped (and counted)."""


Handler = Callable[[ServiceRequest], Awaitable[None]]
# The payload that tells the caller why, in the words of that endpoint's own messages.
RefusalPayload = Callable[[Refusal], bytes]


class _Request:
    """A request of nats.micro, answered through the bus, whose buffer is bounded."""

    def __init__(self, bus: Bus, request: Request, *, unreceived: str) -> None:
        self._bus = bus
        self._unreceived = unreceived
        self.subject = request.subject
        self.payload = request.data
        self.headers: Mapping[str, str] = request.headers or {}
        self.is_abandoned = False
        self._reply = request._msg.reply  # noqa: SLF001  # The only way to the reply subject.

    async def respond(self, payload: bytes) -> bool:
        return await self._send(payload, None)

    async def refuse(self, refusal: Refusal, payload: bytes) -> None:
        # The headers of the micro protocol, by which `nats` and other clients see an error.
        await self._send(
            payload, {ERROR_HEADER: refusal.value, ERROR_CODE_HEADER: _CODES[refusal.value]}
        )

    async def _send(self, payload: bytes, headers: Mapping[str, str] | None) -> bool:
        # Without a reply subject nobody waits for an answer.
        if not self._reply:
            return True
        outcome = await self._bus.offer(self._reply, payload, headers, reply=self._unreceived)
        if outcome is not PublishOutcome.SENT:
            # The caller misses it; what would follow is of no use to them.
            self.is_abandoned = True
        return not self.is_abandoned


class _Figures(msgspec.Struct):
    """What an endpoint says of itself in `$SRV.STATS`."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    running: int = 0
    processing_ns: int = 0
    last_error: str | None = None


class _Served:
    """One subject, while it is served."""

    def __init__(self, endpoint: MicroEndpoint, figures: _Figures) -> None:
        self.endpoint = endpoint
        self.figures = figures


class RequestService:
    """Serves subjects that may come and go while it runs; open it with `RequestService.opened`.

    Subscriptions come back by themselves after a reconnect. All processes that serve a subject
    share its requests.

    Args:
        bus: The connection.
        config: Name, version, description, metadata and queue group of the micro service.
        concurrency: Requests that may run at once; one more is refused at once as busy.
    """

    def __init__(self, bus: Bus, config: ServiceConfig, *, concurrency: int) -> None:
        self._bus = bus
        self._name = config.name
        self._concurrency = concurrency
        self._service = Service(bus.client, replace(config, stats_handler=self._stats))
        self._served: dict[str, _Served] = {}
        self._tasks = OwnedTasks()
        # By the last token of the subject on which the server reports that nobody received an
        # answer: the caller has left its inbox.
        self._running: dict[str, _Request] = {}
        self._numbers = itertools.count()
        self._unreceived = bus.client.new_inbox()
        self._stopping = False
        self._gauge = metrics.SERVICE_RUNNING.labels(service=config.name)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        bus: Bus,
        *,
        name: str,
        version: str,
        description: str,
        queue_group: str,
        concurrency: int,
        stop_seconds: float,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Self]:
        """Announce the service; at the end refuse what is new and finish what runs.

        Args:
            bus: The connection.
            name: Letters, digits, `-` and `_`; processes of the same name are one service.
            version: Semantic version of what is served.
            description: For people who look with `nats service info`.
            queue_group: Who shares the requests of a subject.
            concurrency: Requests that may run at once.
            stop_seconds: How long running requests may go on at the end; those that are late
                are cancelled and refused as stopping.
            metadata: For people, such as the worker's name.

        Raises:
            BusClosedError: The bus is closed.
        """
        config = ServiceConfig(
            name=name,
            version=version,
            description=description,
            metadata=dict(metadata or {}),
            queue_group=queue_group,
        )
        service = cls(bus, config, concurrency=concurrency)
        reports = await bus.subscribe(f"{service._unreceived}.*", service._note_unreceived)
        try:
            with translated():
                await service._service.start()
        except BusUnavailableError as error:
            # Everything is subscribed; the server learns of it with the reconnect.
            log.warning("service.start_unconfirmed", service=name, reason=error.reason)
        try:
            yield service
        finally:
            await service._stop(stop_seconds)
            await service._in_time(reports.unsubscribe(), "reports")

    @property
    def subjects(self) -> set[str]:
        """What is served now."""
        return set(self._served)

    async def serve(
        self, subject: str, handler: Handler, *, name: str, refusal: RefusalPayload
    ) -> None:
        """Begin to serve a subject; does nothing when it is served already.

        While the connection is away the subject is noted, and served once it is back.

        Args:
            subject: Without wildcards.
            handler: Answers one request, and may take its time.
            name: Of the endpoint in `$SRV.INFO`.
            refusal: Spells the answer to a request that is not handled.

        Raises:
            BusUnavailableError: The server did not confirm it; it is served once it is back.
            BusClosedError: The bus is closed.
        """
        if subject in self._served or self._stopping:
            return
        figures = _Figures()

        async def take(request: Request) -> None:
            number = str(next(self._numbers))
            own = _Request(self._bus, request, unreceived=f"{self._unreceived}.{number}")
            await self._take(number, own, handler, refusal, figures)

        with translated():
            await self._service.add_endpoint(
                EndpointConfig(name=name, handler=take, subject=subject)
            )
        # The newest is the last; nats.micro does not hand it out.
        endpoint = self._service._endpoints[-1]  # noqa: SLF001
        self._served[subject] = _Served(endpoint, figures)
        if not self._bus.is_connected:
            return
        # Only with its answer is it certain that other connections find the subject served.
        with translated():
            await self._bus.client.flush(_FLUSH_SECONDS)

    async def withdraw(self, subject: str) -> None:
        """Serve a subject no longer; requests that have arrived are still handled."""
        served = self._served.pop(subject, None)
        if served is None:
            return
        endpoints = self._service._endpoints  # noqa: SLF001  # nats.micro cannot end one endpoint.
        if served.endpoint in endpoints:
            endpoints.remove(served.endpoint)
        subscription = served.endpoint._subscription  # noqa: SLF001
        if subscription is None:
            return
        if self._bus.is_connected and await self._in_time(_drained(subscription), "drain"):
            return
        # Nobody is there to take leave of; without this it would come back with the reconnect.
        subscription._stop_processing()  # noqa: SLF001  # unsubscribe() refuses after a failed drain.
        self._bus.client._remove_sub(subscription._id)  # noqa: SLF001

    async def _take(
        self,
        number: str,
        request: _Request,
        handler: Handler,
        refusal: RefusalPayload,
        figures: _Figures,
    ) -> None:
        figures.requests += 1
        if self._stopping or len(self._running) >= self._concurrency:
            why = Refusal.STOPPING if self._stopping else Refusal.BUSY
            figures.refused += 1
            await self._refuse(request, why, refusal)
            return
        self._running[number] = request
        figures.running += 1
        self._gauge.set(len(self._running))
        self._tasks.spawn(
            self._handle(number, request, handler, refusal, figures), name=f"service-{self._name}"
        )

    async def _handle(
        self,
        number: str,
        request: _Request,
        handler: Handler,
        refusal: RefusalPayload,
        figures: _Figures,
    ) -> None:
        started_ns = time.monotonic_ns()
        try:
            await handler(request)
            self._count("abandoned" if request.is_abandoned else "served")
        except asyncio.CancelledError:
            await self._refuse(request, Refusal.STOPPING, refusal)
            raise
        except Exception as error:
            figures.failed += 1
            figures.last_error = type(error).__name__
            log.exception("service.handler_failed", service=self._name, subject=request.subject)
            await self._refuse(request, Refusal.FAILED, refusal)
        finally:
            del self._running[number]
            figures.running -= 1
            figures.processing_ns += time.monotonic_ns() - started_ns
            self._gauge.set(len(self._running))

    def _note_unreceived(self, message: BusMessage) -> None:
        request = self._running.get(message.subject.rpartition(".")[2])
        if request is not None:
            request.is_abandoned = True

    async def _refuse(self, request: _Request, why: Refusal, refusal: RefusalPayload) -> None:
        self._count(why.value)
        await request.refuse(why, refusal(why))

    def _count(self, outcome: str) -> None:
        metrics.SERVICE_REQUESTS_TOTAL.labels(service=self._name, outcome=outcome).inc()

    async def _stop(self, seconds: float) -> None:
        self._stopping = True
        await asyncio.gather(*(self.withdraw(subject) for subject in self.subjects))
        await self._tasks.finish(patience_seconds=seconds)
        if self._bus.is_connected:
            await self._in_time(self._service.stop(), "stop")

    async def _in_time(self, work: Coroutine[Any, Any, None], what: str) -> bool:
        """Wait a little for work that needs the server's answer; says whether it succeeded."""
        task = asyncio.create_task(work, name=f"service-{what}")
        _, late = await asyncio.wait({task}, timeout=_SERVER_SECONDS)
        if late:
            task.cancel()
            reason = f"no answer within {_SERVER_SECONDS:g} s"
        elif (error := task.exception()) is None:
            return True
        elif isinstance(error, nats.errors.Error | OSError):
            reason = repr(error)
        else:
            raise error
        log.warning("service.not_ended", service=self._name, step=what, reason=reason)
        return False

    def _stats(self, stats: EndpointStats) -> dict[str, int]:
        """Put what the requests' own tasks counted in place of what nats.micro saw of them."""
        served = self._served.get(stats.subject)
        if served is None:
            return {}
        own = served.figures
        stats.num_requests = own.requests
        stats.num_errors = own.failed + own.refused
        stats.processing_time = own.processing_ns
        stats.average_processing_time = own.processing_ns // max(own.requests, 1)
        stats.last_error = own.last_error
        return {"refused": own.refused, "failed": own.failed, "running": own.running}


async def _drained(subscription: Subscription) -> None:
    await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped.
