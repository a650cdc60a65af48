"""Shows an explanation to a person: inputs, the forward's candidates, and four views in columns."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from libs.common.contracts.messages import (
    ExplainedPrice,
    ExplainedView,
    Explanation,
    ForwardSource,
    GreeksFrom,
)
from libs.common.domain.clock import IST

_NANOSECONDS = 1_000_000_000
_NOTHING = "-"
_MODELS = {"black76": "Black-76", "bsm": "BSM"}


def show(found: Explanation, console: Console) -> None:
    """Print an explanation."""
    for line in _heading(found):
        console.print(line, highlight=False, markup=False)
    console.print()
    console.print(_inputs(found))
    console.print()
    console.print(_candidates(found))
    console.print(
        f"forward {_rupees(found.forward)}: {found.forward_says}", highlight=False, markup=False
    )
    if found.parity:
        console.print()
        console.print(_parity(found))
    console.print()
    console.print(_views(found))
    console.print()
    for line in conclusions(found):
        console.print(line, highlight=False, markup=False)
    for view in found.views:
        console.print(f"{view.name}: {view.says}", style="dim", highlight=False, markup=False)


def conclusions(found: Explanation) -> Iterator[str]:
    """Say by how much each other view differs, and how much of that each input makes."""
    ours = found.views[0]
    for other in found.views[1:]:
        if other.iv is None:
            yield f"{other.name} has no volatility: {other.iv_status}"
            continue
        if ours.iv is None:
            distance = f"{_percent(other.iv)} %, where ours has none ({ours.iv_status})"
        else:
            distance = f"{_points(other.iv - ours.iv)} from ours"
        yield f"{other.name} is {distance}" + ("" if other.steps else ": no input differs")
        for step in other.steps:
            name = step.input.replace("_", " ")
            yield f"  {_points(step.iv_change)} by the {name}: {step.says}"


def _heading(found: Explanation) -> Iterator[str]:
    kind = f"{found.strike:g} {found.option_type} of {found.underlying}"
    yield (
        f"{found.tradingsymbol} ({found.instrument_token}): {kind}, dies "
        f"{_moment(found.expiry_instant)}, {_duration(found.seconds_left)} left"
    )
    settling = ", its settlement price is being made" if found.settlement else ""
    yield (
        f"market time {_moment(found.market_time)}, priced for {_moment(found.priced_at)}, "
        f"source {found.source or 'none yet'}{settling}"
    )
    yield (
        f"tick {found.seq} of epoch {found.epoch}, shard {found.shard}, convention "
        f"{found.convention.name}"
    )
    if found.greeks_from is GreeksFrom.SMILE_IV:
        yield "its own price has no volatility: the Greeks are at that of the strike's other leg"


def _inputs(found: Explanation) -> Table:
    table = _table("input", "value", "age", "at most", "instrument")
    for name, price in (
        ("last price", found.last_price),
        ("bid", found.bid),
        ("ask", found.ask),
        ("smile leg", found.smile_leg),
    ):
        table.add_row(name, *_price_cells(price))
    volatilities = (found.bid_iv, found.ask_iv, found.smile_iv)
    for name, iv in zip(("bid iv %", "ask iv %", "smile iv %"), volatilities, strict=True):
        table.add_row(name, _percent(iv))
    return table


def _candidates(found: Explanation) -> Table:
    table = _table("forward from", "value", "age", "at most", "instrument")
    taken = sum(row.taken for row in found.parity)
    rows = {
        ForwardSource.FUTURE: _price_cells(found.future),
        ForwardSource.SYNTHETIC: [
            _rupees(found.parity_forward),
            _NOTHING,
            _age(found.convention.quote_max_age_seconds),
            f"median of {taken} strikes",
        ],
        ForwardSource.SPOT: _price_cells(found.spot),
    }
    for source, cells in rows.items():
        if source is found.forward_source:
            colour = "yellow" if found.forward_stale else "green"
            table.add_row(f"[{colour}]> {source.value}[/]", *cells)
        else:
            table.add_row(f"  {source.value}", *cells)
    return table


def _parity(found: Explanation) -> Table:
    table = _table("strike", "call mid", "age", "put mid", "age", "K + (C - P)·e^rT", "")
    for row in found.parity:
        table.add_row(
            f"{row.strike:g}",
            _rupees(row.call_mid),
            _age(row.call_age_seconds),
            _rupees(row.put_mid),
            _age(row.put_age_seconds),
            _rupees(row.forward),
            "taken" if row.taken else "",
        )
    return table


def _views(found: Explanation) -> Table:
    table = _table("", *(view.name for view in found.views))

    def row(name: str, *cells: str) -> None:
        table.add_row(name, *cells)

    views = found.views
    row("model", *(_MODELS.get(view.model, view.model) for view in views))
    row("priced on", *(view.underlying_source or _NOTHING for view in views))
    row("", *(_rupees(view.underlying_price) for view in views))
    row("rate %", *(f"{100 * view.rate:g}" for view in views))
    row("dividends %", *(f"{100 * view.dividend_yield:g}" for view in views))
    row("days left", *(_number(view.days, 4) for view in views))
    row("tte, years", *(_number(view.tte, 6) for view in views))
    row("option price", *(_rupees(view.option_price) for view in views))
    row("of", *(_leg(found, view) for view in views))
    row("iv %", *(f"[bold]{_percent(view.iv)}[/]" for view in views))
    row("status", *(_status(view) for view in views))
    for name, digits in (("delta", 4), ("gamma", 7), ("theta", 2), ("vega", 2), ("rho", 4)):
        row(name, *(_number(getattr(view, name), digits) for view in views))
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(names):
        is_text = number == 0 or name == "instrument"
        table.add_column(name, justify="left" if is_text else "right", no_wrap=number == 0)
    return table


def _price_cells(price: ExplainedPrice) -> list[str]:
    # An age by the market's time of receipt, not by a timestamp of the packet, is an estimate.
    about = "~" if price.age_seconds is not None and not price.stamped else ""
    age = f"{about}{_age(price.age_seconds)}"
    return [
        _rupees(price.value),
        age if price.fresh else f"[red]{age}[/]",
        _age(price.max_age_seconds),
        escape(price.tradingsymbol or "not listed"),
    ]


def _leg(found: Explanation, view: ExplainedView) -> str:
    if view.option_price_of is None:
        return _NOTHING
    return "itself" if view.option_price_of == found.tradingsymbol else "other leg"


def _status(view: ExplainedView) -> str:
    return view.iv_status if view.iv_status == "ok" else f"[yellow]{view.iv_status}[/]"


def _rupees(value: float | None) -> str:
    return _number(value, 2)


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.2f}"


def _points(change: float | None) -> str:
    # Adding zero makes a rounded -0.0 a 0.0.
    return "?" if change is None else f"{round(100 * change, 2) + 0.0:+.2f} vol points"


def _age(seconds: float | None) -> str:
    return _NOTHING if seconds is None else f"{seconds:g} s"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    if seconds <= 0:
        return "no time"
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join([f"{count} {unit}" for count, unit in parts if count][:2]) or "under 1 s"


def _moment(at_ns: int | None) -> str:
    if at_ns is None:
        return "unknown"
    at = datetime.fromtimestamp(at_ns / _NANOSECONDS, IST)
    return f"{at:%Y-%m-%d %H:%M:%S} IST"
