"""Which candles carry Greeks, and why an instrument cannot have what is asked of it."""

from libs.common.contracts.messages import CandlesRequest, RpcError
from libs.common.contracts.request_checks import bad
from libs.common.domain.instruments import Instrument, Kind


def greeks_problem(request: CandlesRequest, instrument: Instrument) -> RpcError | None:
    """Say why an instrument cannot have what is asked of it, or None."""
    if instrument.kind is Kind.OPTION:
        if request.continuous:
            return bad("continuous", "exists for futures only, not for an option")
        return None
    if request.greeks:
        return bad(
            "greeks",
            f"exist for options only; {instrument.key} is of kind {instrument.kind.value}: "
            "leave greeks out",
        )
    return None


def wants_greeks(request: CandlesRequest, instrument: Instrument) -> bool:
    """Whether the candles carry Greeks: when asked for, or with open interest unless refused."""
    if instrument.kind is not Kind.OPTION:
        return False
    return request.oi if request.greeks is None else request.greeks
