"""Serves explanations: any worker takes the request, the owner of the option's shard answers it."""

import asyncio
from collections.abc import Mapping

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, NoResponderError, RequestTimeoutError
from libs.common.bus.service import Handler, Refusal, RequestService, ServiceRequest
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import ExplainReply, ExplainRequest, Explanation, RpcError
from libs.common.contracts.request_checks import unreadable
from libs.common.domain.instruments import Instrument, Kind
from libs.common.domain.market_calendar import CALENDAR
from libs.common.errors import RejectedError
from libs.common.lifecycle import changed_or_stopped
from services.greeks import metrics
from services.greeks.errors import RequestError
from services.greeks.instrument_index import InstrumentIndex
from services.greeks.settings import GreeksSettings
from services.greeks.shard_worker import ShardWorker

SERVICE_NAME = "tickfleet-greeks-explain"
SERVICE_VERSION = "1.0.0"
QUEUE_GROUP = "greeks"
CONCURRENCY = 32
"""Requests at once, which mostly wait for another worker; one more is refused as busy."""
OWNER_SECONDS = 1.0
"""How long the owner of a shard may take; it needs about a millisecond."""
OWNER_ATTEMPTS = 3
"""A worker that froze stays subscribed for a while beside its successor: asked again, the server
picks one of the two anew."""
_LOOK_SECONDS = 1.0
_STOP_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_FIELD = "instrument_token"

log = logs.get_logger(__name__)


class Explanations:
    """Answers `rpc.explain.v1`, and `rpc.explain.v1.<shard>` for every shard that is held.

    Args:
        bus: The connection.
        settings: Number of shards and name of the worker.
        index: Which token is which instrument.
        workers: The shards that this process holds, as they are now.
    """

    def __init__(
        self,
        bus: Bus,
        settings: GreeksSettings,
        index: InstrumentIndex,
        workers: Mapping[int, ShardWorker],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._index = index
        self._workers = workers
        self._changed = asyncio.Event()

    def poke(self) -> None:
        """A shard came or went: look now instead of within a second."""
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then finish what runs and refuse what is new.

        Raises:
            BusClosedError: The bus is closed for good before that.
        """
        async with RequestService.opened(
            self._bus,
            name=SERVICE_NAME,
            version=SERVICE_VERSION,
            description="How the Greeks of an option came about, beside other conventions.",
            queue_group=QUEUE_GROUP,
            concurrency=CONCURRENCY,
            stop_seconds=_STOP_SECONDS,
            metadata={"worker": self._settings.worker_id},
        ) as service:
            while not stop.is_set():
                self._changed.clear()
                try:
                    await self._match_subjects(service)
                except BusUnavailableError as error:
                    log.warning("explanations.not_served", reason=str(error))
                await changed_or_stopped(self._changed, stop, _LOOK_SECONDS)

    async def _match_subjects(self, service: RequestService) -> None:
        wanted: dict[str, int | None] = {subjects.RPC_EXPLAIN: None}
        wanted |= {subjects.rpc_explain_of(shard): shard for shard in self._workers}
        for subject in service.subjects - wanted.keys():
            await service.withdraw(subject)
        for subject in wanted.keys() - service.subjects:
            shard = wanted[subject]
            name = "explain" if shard is None else f"explain-{shard}"
            await service.serve(subject, self._handler(shard), name=name, refusal=_refused)

    def _handler(self, shard: int | None) -> Handler:
        async def handle(request: ServiceRequest) -> None:
            outcome = "cancelled"
            try:
                answer = await self._answer(request.payload, shard)
                outcome = "ok"
            except RequestError as error:
                outcome = error.error.code
                answer = codec.to_json(ExplainReply(error=error.error))
            finally:
                metrics.EXPLANATIONS_TOTAL.labels(outcome=outcome).inc()
            await request.respond(answer)

        return handle

    async def _answer(self, payload: bytes, asked: int | None) -> bytes:
        """The answer, as bytes.

        Args:
            payload: The request.
            asked: The shard that was asked as its owner; None if anybody was.

        Raises:
            RequestError: There is none.
        """
        try:
            token = codec.from_json(ExplainRequest, payload).instrument_token
        except codec.DecodeError as error:
            raise RequestError(unreadable(error)) from error
        item = await self._option(token)
        shard = subjects.shard_of(item.underlying, self._settings.shards)
        worker = self._workers.get(shard)
        if worker is not None and worker.knows_market:
            return codec.to_json(ExplainReply(explanation=_explained(worker, item)))
        if worker is not None or asked is not None:
            raise _later(f"shard {shard} of {item.underlying} is being taken over")
        return await self._owner_says(payload, shard, item)

    async def _option(self, token: int) -> Instrument:
        found = await self._index.find(token)
        if found is None:
            message = f"no instrument of the day has the token {token}"
            raise RequestError(RpcError(code="not_found", message=message, field=_FIELD))
        item = found.instrument
        if item.kind is not Kind.OPTION:
            says = f"{item.tradingsymbol} is of kind {item.kind}: only options have Greeks"
            raise RequestError(RpcError(code="bad_request", message=says, field=_FIELD))
        return item

    async def _owner_says(self, payload: bytes, shard: int, item: Instrument) -> bytes:
        """The owner's answer as it is, whatever it says."""
        subject = subjects.rpc_explain_of(shard)
        for _ in range(OWNER_ATTEMPTS):
            try:
                answer = await self._bus.request(subject, payload, timeout_seconds=OWNER_SECONDS)
            except RequestTimeoutError:
                continue
            except NoResponderError as error:
                message = f"no worker owns shard {shard} of {item.underlying} now"
                raise _later(message) from error
            except BusUnavailableError as error:
                raise _later(str(error)) from error
            return answer.payload
        raise _later(f"the owner of shard {shard} of {item.underlying} is silent")


def _explained(worker: ShardWorker, item: Instrument) -> Explanation:
    """Ask the shard.

    Raises:
        RequestError: It does not have the option.
    """
    found = worker.state.explain(item.instrument_token, shard=worker.shard)
    if found is not None:
        return found
    try:
        if item.expiry is not None:
            CALENDAR.expiry_instant(item.exchange, item.expiry)
    except RejectedError as error:
        message = f"{item.tradingsymbol} is not priced: {error}"
        raise RequestError(RpcError(code="bad_request", message=message, field=_FIELD)) from error
    # The index reads the bucket a moment earlier than the shard.
    raise _later(f"shard {worker.shard} is just learning {item.tradingsymbol}")


def _later(message: str) -> RequestError:
    return RequestError(
        RpcError(code="unavailable", message=message, retry_after_seconds=_RETRY_SECONDS)
    )


def _refused(refusal: Refusal) -> bytes:
    return codec.to_json(ExplainReply(error=refusal.error))
