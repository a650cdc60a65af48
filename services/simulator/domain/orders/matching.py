"""Which part of an order the market takes now, and at which price a market order stops."""

from typing import Final

from libs.common.domain.instruments import Kind
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.ticket import Side

_SHARE_BANDS: Final = ((10_000, 2.0), (50_000, 1.0))
_SHARE_BEYOND: Final = 0.5
_OPTION_BANDS: Final = ((1_000, 5.0), (10_000, 3.0), (50_000, 2.0))
_OPTION_BEYOND: Final = 1.0


def fills(
    side: Side,
    limit: int,
    quantity: int,
    levels: tuple[tuple[int, int], ...],
    *,
    lot: int,
    share: float = 1.0,
) -> list[tuple[int, int]]:
    """Give (units, price) of what is traded at once, best price first.

    Args:
        side: Of the order.
        limit: Its worst price, paise.
        quantity: Its open units.
        levels: (price, units) of the other side, best first.
        lot: Only whole lots are traded.
        share: At most this part of the open units, but at least a lot; 1 for all.

    Returns:
        Units are positive multiples of the lot; their sum is at most `quantity`.
    """
    wanted = quantity if share >= 1 else max(lot, int(quantity * share) // lot * lot)
    wanted = min(wanted, quantity) // lot * lot
    taken: list[tuple[int, int]] = []
    for price, units in levels:
        if wanted <= 0 or (price > limit if side is Side.BUY else price < limit):
            break
        part = min(units // lot * lot, wanted)
        if part > 0:
            taken.append((part, price))
            wanted -= part
    return taken


def is_triggered(side: Side, trigger: int, last: int) -> bool:
    """Say whether a stop-loss order's price has been reached."""
    return last >= trigger if side is Side.BUY else last <= trigger


def protection_percent(contract: Contract, last: int, asked: float) -> float:
    """Give how far from the last price a market order may go.

    Args:
        contract: An option has wider bands than a share or a future.
        last: Last price, paise.
        asked: Percent, or -1 for the broker's own band.
    """
    if asked > 0:
        return asked
    option = contract.kind is Kind.OPTION
    bands = _OPTION_BANDS if option else _SHARE_BANDS
    beyond = _OPTION_BEYOND if option else _SHARE_BEYOND
    return next((percent for limit, percent in bands if last < limit), beyond)


def protection_price(contract: Contract, touch: Touch, side: Side, percent: float) -> int:
    """Give the limit price, in paise, that a market order becomes."""
    tick = contract.tick_paise
    if side is Side.BUY:
        price = -int(-touch.last * (1 + percent / 100) // tick) * tick
        return max(min(price, touch.upper_circuit), tick)
    price = int(touch.last * (1 - percent / 100) // tick) * tick
    return max(price, touch.lower_circuit, tick)
