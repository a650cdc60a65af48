"""One shard's market: frames move it; ticks, forwards, chains and explanations are read off it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from libs.common.contracts import codec
from libs.common.contracts.messages import (
    Explanation,
    Forward,
    ForwardSource,
    InstrumentSet,
    Source,
)
from libs.common.domain.clock import NS_PER_SECOND
from libs.common.domain.market_calendar import MarketCalendar
from services.greeks.domain.bars import Bars
from services.greeks.domain.batching import every_packet, newest_only
from services.greeks.domain.book import Book, known
from services.greeks.domain.book_texts import BookTexts
from services.greeks.domain.chain_pricer import (
    FROM_NOTHING,
    GREEKS_FROM,
    STATUS_NAMES,
    Engine,
    Quotes,
    price_options,
)
from services.greeks.domain.chains import (
    Chains,
    Stamp,
    chains_of,
    or_none,
    streamed_options,
    turns,
)
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.explanation import Market, explain
from services.greeks.domain.forward import SOURCES, Forwards
from services.greeks.domain.fragments import (
    NO_VALUATION,
    OhlcTexts,
    Valued,
    stamps,
    valuations,
    verdicts,
)
from services.greeks.domain.instrument_table import NOBODY, InstrumentTable
from services.greeks.domain.ladders import Ladders
from services.greeks.domain.last_values import LastValues
from services.greeks.domain.market_clock import MarketClock
from services.greeks.domain.packets import Packets, read_frames
from services.greeks.domain.policy import Policy
from services.greeks.domain.repriced_encoding import RepricedColumns, repriced_rows
from services.greeks.domain.repricing import Repricing
from services.greeks.domain.tick_encoding import (
    DEPTH_BYTES,
    TICK_BYTES,
    TickColumns,
    encode,
    rows_of,
)
from services.greeks.domain.vol_curve import atm_volatility

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

MAX_MESSAGE_BYTES: Final = 512 * 1024
"""Ticks of one underlying are split beyond this; NATS takes 1 MiB by default."""

MAX_ROWS: Final = 1024
"""Ticks priced at once, of one or several rounds: enough for numpy, few enough for their objects to
stay in the CPU's cache, and a bound on how long the event loop waits."""

_VERDICTS: Final = verdicts((*STATUS_NAMES, None), GREEKS_FROM)
_NO_OPTION: Final = len(STATUS_NAMES)
"""In place of a status, of instruments that are no options."""
_NO_SLOTS: Final = np.empty(0, np.int64)


class Frame(NamedTuple):
    """A frame as it was received.

    Attributes:
        payload: A Kite frame.
        received_ns: When ingest received it, epoch nanoseconds.
        source: `live` or `sim`.
    """

    payload: bytes
    received_ns: int
    source: str


class TickMessage(NamedTuple):
    """Ticks of one underlying, ready to be published.

    Attributes:
        subject: Where they go.
        payload: Newline-delimited JSON.
        slots: Slot of each line.
    """

    subject: str
    payload: bytes
    slots: Ints


class ExpiryMessage(NamedTuple):
    """Something of one expiry, ready to be published.

    Attributes:
        expiry_id: Which expiry.
        kind: `chain` or `curve`.
        subject: Where it goes.
        payload: JSON.
    """

    expiry_id: int
    kind: str
    subject: str
    payload: bytes


class Tally(msgspec.Struct):
    """What happened to the packets of a batch; every one is in exactly one number.

    Attributes:
        ticks: Turned into ticks.
        conflated: Made obsolete by a newer packet of the same instrument.
        unknown: Of instruments that no instrument set holds.
        bad_frames: Frames that are none, by reason.
        statuses: Options priced, by status.
        resets: How often the market's time went back or the source changed.
        repriced: Options priced anew without a packet, by status; in no other number.
    """

    ticks: int = 0
    conflated: int = 0
    unknown: int = 0
    bad_frames: Counter[str] = msgspec.field(default_factory=Counter)
    statuses: Counter[str] = msgspec.field(default_factory=Counter)
    resets: int = 0
    repriced: Counter[str] = msgspec.field(default_factory=Counter)


class _Moved(NamedTuple):
    """What n packets met when book and forwards moved through their rounds.

    Attributes:
        rows: Positions of the packets in the batch [n].
        rounds: Number of each one's round [n].
        seq: Of its instrument [n].
        ohlc: The day's prices as JSON, or None [n].
        forward: Of its expiry, rupees [n]; without meaning unless an option, as the next two.
        source: Code into `forward.SOURCES` [n].
        is_stale: Whether nothing fresh supported the forward [n].
    """

    rows: Ints
    rounds: Ints
    seq: Ints
    ohlc: npt.NDArray[np.object_]
    forward: Floats
    source: npt.NDArray[np.uint8]
    is_stale: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, rounds: Sequence[Ints]) -> "_Moved":
        """Room for the packets of these rounds."""
        rows = np.concatenate(rounds)
        n = rows.size
        return cls(
            rows=rows,
            rounds=np.empty(n, np.int64),
            seq=np.empty(n, np.int64),
            ohlc=np.empty(n, np.object_),
            forward=np.full(n, np.nan),
            source=np.zeros(n, np.uint8),
            is_stale=np.zeros(n, np.bool_),
        )

    def take(self, order: Ints) -> "_Moved":
        """The same in another order."""
        return _Moved(
            rows=self.rows[order],
            rounds=self.rounds[order],
            seq=self.seq[order],
            ohlc=self.ohlc[order],
            forward=self.forward[order],
            source=self.source[order],
            is_stale=self.is_stale[order],
        )


class Shard:
    """State of one shard for one lease term.

    Args:
        epoch: The lease term; stands in every tick.
        calendar: When contracts die, and when their market trades.
        policy: Conventions.
        engine: What solves volatilities.
        now_ns: Wall clock for `greeks_ts`, epoch nanoseconds.

    Attributes:
        table: The shard's instruments.
        book: Their newest prices.
        terms: What each expiry is priced by.
        forwards: The forward of every expiry.
        chains: Which expiries have news since their last chain.
        last_values: Newest ticks that are not yet written.
        bars: The underlyings' seconds.
        clock: The market's time.
    """

    def __init__(
        self,
        *,
        epoch: int,
        calendar: MarketCalendar,
        policy: Policy,
        engine: Engine,
        now_ns: Callable[[], int],
    ) -> None:
        self.epoch = epoch
        self.table = InstrumentTable(calendar.expiry_instant)
        self.book = Book(self.table.capacity)
        self.terms = ExpiryTerms(calendar, policy)
        self.forwards = Forwards(0)
        self.chains = Chains()
        self.last_values = LastValues(self.table.capacity)
        self.bars = Bars(
            epoch=epoch,
            grace_seconds=policy.bar_grace_seconds,
            late_seconds=policy.bar_late_seconds,
            capacity=self.table.capacity,
        )
        self.clock = MarketClock()
        self._repricing = Repricing(self.table.capacity, policy.reprice_interval_seconds)
        self._ohlc = OhlcTexts(self.table.capacity)
        self._books = BookTexts()
        self._policy = policy
        self._engine = engine
        self._now_ns = now_ns
        self._source: str | None = None
        self._moved_ns = 0
        self._forwards_at_s = 0
        self._settled: tuple[int, int] | None = None

    def use_instruments(self, update: InstrumentSet) -> None:
        """Take a new set of one underlying; prices of instruments that stay are kept.

        A token that means another contract now starts without a price and without a last value.
        Its sequence goes on: on the wire it counts by token within an epoch, and one that began
        anew would look like a repetition.
        """
        reused = self.table.apply(update)
        self.book.grow(self.table.capacity)
        self.last_values.grow(self.table.capacity)
        self._repricing.grow(self.table.capacity)
        self._ohlc.grow(self.table.capacity)
        self.bars.grow(self.table.capacity)
        self.bars.use_sources(update.underlying, self.table.bar_sources(update.underlying), reused)
        self.terms.use(self.table.expiries)
        self.forwards.grow(len(self.table.expiries))
        self.chains.grow(len(self.table.expiries))
        if reused:
            slots = np.array(reused)
            self.book.forget(slots)
            self.last_values.forget(slots)
            self._repricing.forget(slots)
        self._forget_strangers()

    def forget_instruments(self, underlying: str) -> None:
        """All instruments of an underlying become unknown."""
        self.table.forget(underlying)
        self._forget_strangers()

    def _forget_strangers(self) -> None:
        """Instruments that no set holds any more must not be priced anew."""
        held = self._repricing.held
        unknown = self.table.slots_of(self.table.token[held]) == NOBODY
        self._repricing.forget(held[unknown])

    def explain(self, token: int, *, shard: int) -> Explanation | None:
        """Explain the Greeks of an option; None if it is none of the shard's options.

        Until its forward moves these are those of its newest tick, then those of the next one.

        Args:
            token: Its instrument token.
            shard: Number of this shard.
        """
        market = Market(
            table=self.table,
            book=self.book,
            forwards=self.forwards,
            terms=self.terms,
            policy=self._policy,
            market_s=float(self.clock.now_s),
            source=self._source,
            engine=self._engine,
        )
        slot = self.table.slot_of(token)
        forward = float(self.forwards.forward[self.table.expiry_id[slot]]) if slot else np.nan
        moment_s = self._repricing.moment_s(slot, forward)
        return explain(
            market,
            slot,
            at_s=market.market_s if np.isnan(moment_s) else moment_s,
            shard=shard,
            epoch=self.epoch,
            now_ns=self._now_ns(),
        )

    def work(
        self, frames: Sequence[Frame], *, conflate: bool, tally: Tally
    ) -> Iterator[TickMessage]:
        """Price a batch; state moves on as far as the result is consumed.

        Bars of seconds that the batch ended are in `bars.ready` from the first message on.

        Args:
            frames: Oldest first.
            conflate: Price only the newest packet of every instrument.
            tally: Counts are added to it.

        Yields:
            Messages in the order in which they should be published.
        """
        for source, group in _by_source(frames):
            yield from self._work(group, source, conflate=conflate, tally=tally)

    def _work(
        self, frames: Sequence[Frame], source: str, *, conflate: bool, tally: Tally
    ) -> Iterator[TickMessage]:
        packets, slots = self._read(frames, source, tally)
        received = [frame.received_ns for frame in frames]
        if slots.size:
            # Before anything is conflated: a second's high and low may be in any packet.
            self.bars.take(
                slots,
                packets,
                received,
                source,
                market_s=self.clock.now_s,
                now_ns=self._now_ns(),
            )
        rounds = newest_only(slots) if conflate else every_packet(slots, packets.frame)
        tally.conflated += rounds.conflated
        for turn in _turns(rounds.rows):
            yield from self._turn(turn, slots, packets, received, source, tally)

    def _read(self, frames: Sequence[Frame], source: str, tally: Tally) -> tuple[Packets, Ints]:
        """Decode, drop what is unknown, and move the clock."""
        packets, bad = read_frames([frame.payload for frame in frames])
        for frame in bad:
            tally.bad_frames[frame.reason] += 1
        slots = self.table.slots_of(packets.token)
        is_known = slots != NOBODY
        if not is_known.all():
            rows = np.flatnonzero(is_known)
            tally.unknown += slots.size - rows.size
            packets, slots = packets.take(rows), slots[rows]
        if not slots.size:
            return packets, slots
        if source != self._source:
            if self._source is not None:
                tally.resets += 1
                self._reset()
            self._source = source
        newest_s = int(packets.exchange_ts_s.max())
        if not newest_s and not self.clock.now_s and source == Source.LIVE:
            # Nothing but quote and LTP packets so far: a live market's time is ours.
            newest_s = frames[-1].received_ns // NS_PER_SECOND
        if self.clock.advance(newest_s, frames[-1].received_ns):
            tally.resets += 1
            self.book.forget()
            self.forwards.forget()
            self.chains.forget()
            self.bars.restart()
            self._repricing.forget()
        return packets, slots

    def _reset(self) -> None:
        """Another market speaks: nothing of the old one may mix with it."""
        self.clock = MarketClock()
        self.book.forget()
        self.forwards.forget()
        self.chains.forget()
        self.bars.restart()
        self._repricing.forget()

    def _seen(self, packets: Packets) -> Floats:
        """Market time of every packet; those without a stamp are as new as the market."""
        stamp = packets.exchange_ts_s
        return np.where(stamp > 0, stamp, self.clock.now_s).astype(np.float64)

    def _turn(
        self,
        rounds: Sequence[Ints],
        slots: Ints,
        packets: Packets,
        received: Sequence[int],
        source: str,
        tally: Tally,
    ) -> Iterator[TickMessage]:
        """Price and encode rounds that follow one another, grouped by underlying."""
        table = self.table
        moved = self._advance(rounds, slots, packets)
        underlying = table.underlying_id[slots[moved.rows]]
        if (underlying[1:] != underlying[:-1]).any():
            # Packets of one underlying next to one another, since they share a message.
            order = np.argsort(underlying, kind="stable")
            moved, underlying = moved.take(order), underlying[order]
        slots, packets = slots[moved.rows], packets.take(moved.rows)
        columns = self._columns(slots, packets, moved, received, source, tally)
        rows = rows_of(columns, self._books)
        row_bytes = TICK_BYTES + (DEPTH_BYTES if columns.depth is not None else 0)
        tally.ticks += slots.size
        yield from self._messages(slots, underlying, rows, row_bytes)

    def _messages(
        self, slots: Ints, underlying: Ints, rows: Iterator[Any], row_bytes: int
    ) -> Iterator[TickMessage]:
        """Encode rows whose underlyings lie next to one another, a message or more each."""
        starts = [0, *(np.flatnonzero(underlying[1:] != underlying[:-1]) + 1).tolist()]
        for first, last in zip(starts, [*starts[1:], slots.size], strict=True):
            subject = self.table.tick_subjects[int(underlying[first])]
            done = first
            for count, payload in encode(
                list(islice(rows, last - first)), max_bytes=MAX_MESSAGE_BYTES, row_bytes=row_bytes
            ):
                part = slots[done : done + count]
                self.last_values.note(part, payload)
                yield TickMessage(subject, payload, part)
                done += count

    def _advance(self, rounds: Sequence[Ints], slots: Ints, packets: Packets) -> _Moved:
        """Move book and forwards through rounds, noting what every packet met."""
        table, book, forwards = self.table, self.book, self.forwards
        market_s = float(self.clock.now_s)
        moved = _Moved.empty(rounds)
        first = 0
        for number, rows in enumerate(rounds):
            last = first + rows.size
            at = slots[rows]
            packets_now = packets.take(_span(rows))
            book.take(at, packets_now, self._seen(packets_now))
            self._move_forwards(at, market_s)
            book.seq[at] += 1
            moved.rounds[first:last] = number
            moved.seq[first:last] = book.seq[at]
            moved.ohlc[first:last] = self._ohlc.of(at, packets_now.ohlc)
            if forwards.forward.size:
                # Spots have expiry -1 and so note any; only rows of options are looked at.
                expiry_id = table.expiry_id[at]
                moved.forward[first:last] = forwards.forward[expiry_id]
                moved.source[first:last] = forwards.source[expiry_id]
                moved.is_stale[first:last] = forwards.is_stale[expiry_id]
            first = last
        return moved

    def _move_forwards(self, slots: Ints, market_s: float) -> None:
        """Choose anew the forwards that a packet of the batch may have moved.

        Without any time of the market there are none: no price could be called fresh.
        """
        table = self.table
        if not table.instant_s.size or not market_s:
            return
        touched = np.zeros(table.instant_s.size + 1, np.bool_)
        # Spots have expiry -1 and so touch the spare last place; they are told by their slot.
        touched[table.expiry_id[slots]] = True
        present = np.zeros(table.capacity, np.bool_)
        present[slots[table.expiry_id[slots] < 0]] = True
        which = np.flatnonzero(touched[:-1] | present[table.spot])
        self.forwards.update(which, table, self.book, market_s, self.terms, self._policy)
        self.chains.touched[which] = True

    def _columns(
        self,
        slots: Ints,
        packets: Packets,
        moved: _Moved,
        received: Sequence[int],
        source: str,
        tally: Tally,
    ) -> TickColumns:
        """Price the options and lay all values of the ticks side by side."""
        table = self.table
        n = slots.size
        market_s = float(self.clock.now_s)
        seen_s = self._seen(packets)
        behind = market_s - seen_s > self._policy.timestamp_max_lag_seconds
        last, bid, ask = known(packets.last_price), known(packets.bid), known(packets.ask)
        options = np.flatnonzero(table.flag[slots])
        quotes = Quotes(
            slots=slots[options],
            rounds=moved.rounds[options],
            at_s=np.where(behind, market_s, seen_s)[options],
            last=last[options],
            bid=bid[options],
            ask=ask[options],
            forward=moved.forward[options],
            source=moved.source[options],
            is_stale=moved.is_stale[options],
        )
        priced = price_options(
            quotes, table, self.book, market_s, terms=self.terms, engine=self._engine
        )
        now_ns = self._now_ns()
        self._moved_ns = now_ns
        self._repricing.note(
            quotes.slots,
            forward=quotes.forward,
            source=quotes.source,
            is_stale=quotes.is_stale,
            at_s=quotes.at_s,
            now_ns=now_ns,
        )
        _count(priced.status, tally.statuses)
        close = packets.close
        depth_rows = np.flatnonzero(packets.has_depth)
        expiry_ids = table.expiry_id[quotes.slots]
        spelled = valuations(
            Valued(
                expiry_ids=expiry_ids,
                rounds=quotes.rounds,
                at_s=quotes.at_s,
                forward=priced.forward,
                source=priced.source,
                tte=priced.tte,
                settlement=self.terms.settles(expiry_ids, quotes.at_s),
            ),
            sources=SOURCES,
            conventions=self.terms.names,
        )
        status, origin = priced.status, priced.greeks_from
        if options.size != n:
            some, spelled = spelled, [NO_VALUATION[False]] * n
            for row, text in zip(options.tolist(), some, strict=True):
                spelled[row] = text
            status = np.full(n, _NO_OPTION, np.uint8)
            origin = np.full(n, FROM_NOTHING, np.uint8)
            status[options], origin[options] = priced.status, priced.greeks_from
        return TickColumns(
            head=table.head[slots],
            last_price=last,
            bid=bid,
            ask=ask,
            bid_qty=packets.bid_qty,
            ask_qty=packets.ask_qty,
            volume=packets.volume,
            oi=packets.oi,
            change=(last - close) * 100.0 / np.where(close > 0.0, close, np.nan),
            ohlc=moved.ohlc,
            depth_rows=depth_rows,
            depth=packets.depth(depth_rows) if depth_rows.size else None,
            iv=_spread(priced.iv, options, n),
            bid_iv=_spread(priced.bid_iv, options, n),
            ask_iv=_spread(priced.ask_iv, options, n),
            smile_iv=_spread(priced.smile_iv, options, n),
            greeks=_spread(priced.greeks, options, n),
            verdict=_VERDICTS[status, origin],
            valuation=spelled,
            seq=moved.seq,
            stamp=stamps(
                packets.frame,
                packets.exchange_ts_s,
                received,
                epoch=self.epoch,
                greeks_ts=now_ns,
                source=source,
            ),
        )

    # -- pricing anew ----------------------------------------------------------------------------

    def owe(self, slots: Ints | None = None) -> None:
        """The ticks of some options were not published by this owner: they are due.

        Args:
            slots: Which; all that is held if None.
        """
        self._repricing.owe(self._repricing.held if slots is None else slots)
        self._settled = None

    def due(self) -> Ints:
        """Slots of options that must be priced anew now, longest waiting first.

        Forwards that time alone has made older are chosen anew before. While nothing moves this
        costs next to nothing.
        """
        now_ns = self._now_ns()
        repricing = self._repricing
        here = (self._moved_ns, self.clock.now_s)
        if not repricing.interval_ns or not self.clock.now_s or here == self._settled:
            return _NO_SLOTS
        self._age_forwards()
        due = repricing.due(self.table, self.forwards, self.terms, float(self.clock.now_s), now_ns)
        # By then the interval of every option that the last packet concerned is over.
        is_over = abs(now_ns - self._moved_ns) > 2 * repricing.interval_ns
        self._settled = here if is_over and not due.size else None
        return due

    def by_underlying(self, slots: Ints) -> Ints:
        """Slots in an order in which those of one underlying, that share messages, are together."""
        order = np.argsort(self.table.underlying_id[slots], kind="stable")
        together: Ints = slots[order]
        return together

    def _age_forwards(self) -> None:
        """Choose forwards anew once per second of the market.

        A packet moves the forward that it touches. One whose future or spot fell silent would
        pass for fresh for as long as nothing of its expiry comes.
        """
        if self.clock.now_s == self._forwards_at_s:
            return
        self._forwards_at_s = self.clock.now_s
        held = self._repricing.held
        is_asked = np.zeros(len(self.table.expiries) + 1, np.bool_)
        is_asked[self.table.expiry_id[held]] = True
        which = np.flatnonzero(is_asked[:-1])
        forwards = self.forwards
        before = forwards.forward[which], forwards.is_stale[which], forwards.touched[which]
        forwards.update(
            which, self.table, self.book, float(self.clock.now_s), self.terms, self._policy
        )
        same = (forwards.forward[which] == before[0]) & (forwards.is_stale[which] == before[1])
        forwards.touched[which[same]] = before[2][same]

    def reprice(self, slots: Ints, tally: Tally) -> list[TickMessage]:
        """Price options anew: as if the packet held of each came again, now.

        Their prices, order books, quantities and times stay those of the packet; forward, time to
        expiry and all that follows from them are new. Bars do not see it.

        Args:
            slots: Options, each once; those that need it no more are left out.
            tally: Counts are added to it.

        Returns:
            Messages in the order in which they should be published.
        """
        table, book, forwards = self.table, self.book, self.forwards
        now_ns = self._now_ns()
        market_s = float(self.clock.now_s)
        slots = self._repricing.due(table, forwards, self.terms, market_s, now_ns, among=slots)
        held = [self.last_values.newest(slot) for slot in slots.tolist()]
        lines = [line for line in held if line is not None]
        if len(lines) < len(held):
            slots = slots[[line is not None for line in held]]
        if not lines or self._source is None:
            return []
        underlying = table.underlying_id[slots]
        order = np.argsort(underlying, kind="stable")
        slots, underlying = slots[order], underlying[order]
        lines = [lines[row] for row in order.tolist()]
        expiry = table.expiry_id[slots]
        at_s = np.full(slots.size, market_s)
        quotes = Quotes(
            slots=slots,
            rounds=np.zeros(slots.size, np.int64),
            at_s=at_s,
            last=book.last_price[slots],
            bid=book.bid[slots],
            ask=book.ask[slots],
            forward=forwards.forward[expiry],
            source=forwards.source[expiry],
            is_stale=forwards.is_stale[expiry],
        )
        priced = price_options(
            quotes,
            table,
            book,
            market_s,
            terms=self.terms,
            engine=self._engine,
            are_packets=False,
        )
        self._repricing.note(
            slots,
            forward=quotes.forward,
            source=quotes.source,
            is_stale=quotes.is_stale,
            at_s=market_s,
            now_ns=now_ns,
        )
        _count(priced.status, tally.repriced)
        book.seq[slots] += 1
        valued = Valued(
            expiry_ids=expiry,
            rounds=quotes.rounds,
            at_s=at_s,
            forward=priced.forward,
            source=priced.source,
            tte=priced.tte,
            settlement=self.terms.settles(expiry, at_s),
        )
        columns = RepricedColumns(
            head=table.head[slots],
            held=lines,
            iv=priced.iv,
            bid_iv=priced.bid_iv,
            ask_iv=priced.ask_iv,
            smile_iv=priced.smile_iv,
            greeks=priced.greeks,
            verdict=_VERDICTS[priced.status, priced.greeks_from],
            valuation=valuations(
                valued, sources=SOURCES, conventions=self.terms.names, repriced=True
            ),
            seq=book.seq[slots],
            epoch=self.epoch,
            greeks_ts=now_ns,
            source=self._source,
        )
        return list(
            self._messages(slots, underlying, repriced_rows(columns), TICK_BYTES + DEPTH_BYTES)
        )

    def take_forwards(self, expiry_ids: Ints) -> Iterator[tuple[str, bytes]]:
        """Spell the forwards of some expiries, as (subject, payload), and mark them published.

        Args:
            expiry_ids: Those whose turn it is; without a forward they are left out.
        """
        forwards, table, book, terms = self.forwards, self.table, self.book, self.terms
        forwards.touched[expiry_ids] = False
        ids = expiry_ids[np.isfinite(forwards.forward[expiry_ids])]
        market_s, now_ns = float(self.clock.now_s), self._now_ns()
        ladders = Ladders.of(ids, forwards.forward[ids], table, book)
        smile = ladders.remembered_smile(book, market_s - terms.smile_age_s[ids])
        atm_strike = ladders.atm_strike
        atm_iv = atm_volatility(ladders.strikes, smile, ladders.forward, ladders.atm)
        straddle = ladders.straddle(book, market_s - terms.quote_age_s[ids])
        skew = self.chains.skews(ids, now_ns)
        tte, settles = terms.years(ids, market_s), terms.settles(ids, market_s)
        for row, expiry_id in enumerate(ids.tolist()):
            value = float(ladders.forward[row])
            name = SOURCES[int(forwards.source[expiry_id])]
            if name is None:
                continue  # The market was forgotten while the forwards before it were sent.
            expiry = table.expiries[expiry_id]
            spot = or_none(book.last_price[table.spot[expiry_id]])
            message = Forward(
                underlying=expiry.underlying,
                expiry=expiry.day,
                forward=value,
                source=ForwardSource(name),
                spot=spot,
                basis=None if spot is None else value - spot,
                dispersion=or_none(forwards.dispersion[expiry_id]),
                atm_strike=or_none(atm_strike[row]),
                atm_iv=or_none(atm_iv[row]),
                straddle=or_none(straddle[row]),
                skew_25d=or_none(skew[row]),
                tte=float(tte[row]),
                settlement=bool(settles[row]),
                convention=terms.conventions[expiry_id],
                exchange_ts=self.clock.now_s * 1_000_000_000 or None,
                greeks_ts=now_ns,
                feed=Source(self._source or Source.SIM),
            )
            yield expiry.subject, codec.to_json(message)

    def chain_turns(self, phase: int) -> list[Ints]:
        """Expiries whose turn it is to show their chain, in groups of bounded cost.

        Args:
            phase: Counts the turns up; there are `CHAIN_PHASES` in an interval.
        """
        ids = self.chains.due(phase)
        sizes = streamed_options(ids, self.table, self.book)
        # The spot is news of every expiry of the dump, but of most nobody streams an option.
        self.chains.touched[ids[sizes == 0]] = False
        shown = sizes > 0
        return list(turns(ids[shown], sizes[shown]))

    def take_chains(self, expiry_ids: Ints) -> list[ExpiryMessage]:
        """Price one group of expiries anew; spell chain and volatility curve of each.

        Args:
            expiry_ids: Those without a forward, or of which nobody streams an option, are left
                out; all of them wait for their next tick.
        """
        self.chains.touched[expiry_ids] = False
        stamp = Stamp(
            market_s=self.clock.now_s,
            epoch=self.epoch,
            greeks_ts=self._now_ns(),
            source=Source(self._source or Source.SIM),
        )
        messages: list[ExpiryMessage] = []
        for expiry_id, chain, curve in chains_of(
            expiry_ids,
            stamp,
            self.table,
            self.book,
            self.forwards,
            self.terms,
            each_side=self._policy.chain_strikes,
            engine=self._engine,
        ):
            self.chains.note(curve, expiry_id)
            expiry = self.table.expiries[expiry_id]
            messages += (
                ExpiryMessage(expiry_id, "chain", expiry.chain_subject, codec.to_json(chain)),
                ExpiryMessage(expiry_id, "curve", expiry.vol_subject, codec.to_json(curve)),
            )
        return messages


def _count(codes: Codes, statuses: Counter[str]) -> None:
    """Add the statuses of options that were priced."""
    counts = np.bincount(codes, minlength=len(STATUS_NAMES))
    for code in np.flatnonzero(counts).tolist():
        statuses[STATUS_NAMES[code]] += int(counts[code])


def _turns(rounds: Sequence[Ints]) -> Iterator[list[Ints]]:
    """Rounds of bounded size, as many together as the bound allows."""
    turn: list[Ints] = []
    size = 0
    for whole in rounds:
        for first in range(0, whole.size, MAX_ROWS):
            rows = whole[first : first + MAX_ROWS]
            if turn and size + rows.size > MAX_ROWS:
                yield turn
                turn, size = [], 0
            turn.append(rows)
            size += rows.size
    if turn:
        yield turn


def _span(rows: Ints) -> Ints | slice:
    """Ascending rows as a slice if none is left out, since a slice copies nothing."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == rows.size else rows


def _by_source(frames: Sequence[Frame]) -> Iterator[tuple[str, Sequence[Frame]]]:
    """Runs of frames of one source; nearly always a single one."""
    first = 0
    for index in range(1, len(frames) + 1):
        if index == len(frames) or frames[index].source != frames[first].source:
            yield frames[first].source, frames[first:index]
            first = index


def _spread(values: Floats, rows: Ints, n: int) -> Floats:
    """Values of some rows over all n of them, NaN elsewhere; the last axis is the row."""
    if rows.size == n:
        return values
    spread = np.full((*values.shape[:-1], n), np.nan)
    spread[..., rows] = values
    return spread
