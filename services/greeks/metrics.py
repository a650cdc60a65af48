"""Metrics of greeks: unit in the name, remedy in the comment, labels from bounded sets."""

from prometheus_client import Counter, Gauge, Histogram

# Ticks published, by status of the option (`none` for futures, indices and shares). Much
# `no_forward`: nothing of the underlying is subscribed; `stale_forward`: its feed is quiet.
TICKS_TOTAL = Counter("tickfleet_greeks_ticks_total", "Ticks published", ["status"])
# Ticks of options priced without a packet, because their forward moved or time passed, by status.
# Many times the ticks above: raise REPRICE_INTERVAL_SECONDS if subscribers cannot follow.
REPRICED_TICKS_TOTAL = Counter(
    "tickfleet_greeks_repriced_ticks_total", "Ticks priced anew without a packet", ["status"]
)
# Options whose turn to be priced anew has come. Stays high: REPRICE_TICKS_PER_SECOND is too small,
# or the worker is behind (it serves frames first): add workers.
REPRICE_DUE = Gauge("tickfleet_greeks_reprice_due", "Options waiting to be priced anew")
# Packets made obsolete by newer ones. Growing steadily: the worker is behind, add workers.
CONFLATED_TOTAL = Counter("tickfleet_greeks_conflated_total", "Packets left out for newer ones")
# Packets of instruments that no instrument set holds: the dump is older than the plan.
UNKNOWN_TOKENS_TOTAL = Counter(
    "tickfleet_greeks_unknown_tokens_total", "Packets of unknown instruments"
)
# Frames that are none, by FrameFault or `header`. Any: ingest and greeks disagree on the format.
BAD_FRAMES_TOTAL = Counter("tickfleet_greeks_bad_frames_total", "Frames left out", ["reason"])
# Times a market's clock went back or its source changed; once per change between sim and live.
RESETS_TOTAL = Counter("tickfleet_greeks_market_resets_total", "Times prices were forgotten")
# Messages that the lease's end or the bus kept back, by reason (`lease`, `bus`).
UNSENT_TOTAL = Counter("tickfleet_greeks_unsent_total", "Messages not published", ["reason"])
# Instrument sets that could not be used; the one before stays in force.
BAD_SETS_TOTAL = Counter("tickfleet_greeks_bad_instrument_sets_total", "Unreadable instrument sets")
# Last values and forwards written.
LAST_VALUES_TOTAL = Counter("tickfleet_greeks_last_values_total", "Last values written")
# Instruments whose newest tick is not yet a last value. Far above LAST_VALUES_PER_SECOND: the
# values that a new client sees first are older than LAST_INTERVAL_SECONDS; add workers.
LAST_VALUES_DUE = Gauge("tickfleet_greeks_last_values_due", "Last values that wait to be written")
FORWARDS_TOTAL = Counter("tickfleet_greeks_forwards_total", "Forwards published")
# Chains and volatility curves published, by kind (`chain`, `curve`).
CHAINS_TOTAL = Counter("tickfleet_greeks_chains_total", "Chains and curves published", ["kind"])
# Chains that waited for their next turn, by reason: `rebuild` for a moment after a take-over;
# `behind` grows: the worker does not keep up with its frames, add workers.
CHAINS_SKIPPED_TOTAL = Counter(
    "tickfleet_greeks_chains_skipped_total", "Chains not shown in their turn", ["reason"]
)
# Time to price and spell one group of chains, in which nothing else happens. Above 0.005 s: the
# machine is too slow or too busy for so many strikes, lower CHAIN_STRIKES.
CHAIN_TURN_SECONDS = Histogram(
    "tickfleet_greeks_chain_turn_seconds",
    "Time to make one group of chains",
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1),
)
# Bars published, by version (`first`, `again`). Many `again`: ticks come late, see ingest's lag, or
# raise BAR_GRACE_SECONDS.
BARS_TOTAL = Counter("tickfleet_greeks_bars_total", "Bars published", ["version"])
# Ticks of an underlying behind its newest second, by what they did (`revised`, `ignored`).
# `ignored` grows: two connections deliver far apart, raise BAR_LATE_SECONDS.
BAR_LATE_TICKS_TOTAL = Counter(
    "tickfleet_greeks_bar_late_ticks_total", "Ticks of a second that was over", ["outcome"]
)
# Seconds without a bar because reading began within them: a few per start. More after every
# hand-over: REBUILD_SECONDS is too short.
BAR_SECONDS_CUT_TOTAL = Counter(
    "tickfleet_greeks_bar_seconds_cut_total", "Seconds of which the beginning is not known"
)
# Requests for candles by outcome (`ok`, `abandoned`, `cancelled` or the code of the error). Many
# `rate_limited`: more accounts, or fewer users; `timeout`: see ingest's calls to Kite.
CANDLE_REQUESTS_TOTAL = Counter(
    "tickfleet_greeks_candle_requests_total", "Requests for candles", ["outcome"]
)
# From the arrival of such a request to its last part. Much of it is waiting for Kite's limits.
CANDLE_REQUEST_SECONDS = Histogram(
    "tickfleet_greeks_candle_request_seconds",
    "Time to answer a request for candles",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
# Requests to ingest: at most one per instrument and piece, none for days that are kept.
CANDLE_FETCHES_TOTAL = Counter(
    "tickfleet_greeks_candle_fetches_total", "Spans of candles asked for from ingest"
)
# Candles of options by where their forward came from. Much `synthetic` or `spot` with black76:
# the futures of that exchange are not in the dump, or hardly trade.
CANDLE_FORWARDS_TOTAL = Counter(
    "tickfleet_greeks_candle_forwards_total", "Candles that got a forward", ["source"]
)
# Days of candles by what the store did (`hit`, `miss`, `stored`, `deleted`). Never `hit`: control
# does not say which market is in force, or DATABASE_URL is not set.
CANDLE_DAYS_TOTAL = Counter(
    "tickfleet_greeks_candle_days_total", "Days of candles read or kept", ["outcome"]
)
# Times the store could not be used, by step (`read`, `write`, `sweep`, `decode`). Any: PostgreSQL
# is away or its schema is old; requests are served, from Kite every time.
CANDLE_STORE_FAILURES_TOTAL = Counter(
    "tickfleet_greeks_candle_store_failures_total", "Failures of the store of candles", ["step"]
)
# Time from a fetched batch to its last publish. Above 0.05 s: conflation follows soon.
BATCH_SECONDS = Histogram(
    "tickfleet_greeks_batch_seconds",
    "Time to work one batch",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
# From ingest's receipt of the oldest frame of a batch to the publish of its ticks.
TICK_AGE_SECONDS = Histogram(
    "tickfleet_greeks_tick_age_seconds",
    "Age of a batch's oldest frame when its ticks are out",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0),
)
# Explanations asked of this worker, by outcome (`ok`, `not_found`, `bad_request`, `unavailable`,
# `cancelled`). `unavailable` stays: a shard has no owner, or its owner does not come to read.
EXPLANATIONS_TOTAL = Counter(
    "tickfleet_greeks_explanations_total", "Requests to explain an option", ["outcome"]
)
# Frames that wait in the stream for this worker, all shards together.
LAG_FRAMES = Gauge("tickfleet_greeks_lag_frames", "Frames waiting in the stream")
SHARDS_OWNED = Gauge("tickfleet_greeks_shards_owned", "Shards owned by this worker")
INSTRUMENTS_KNOWN = Gauge("tickfleet_greeks_instruments", "Instruments of the owned shards")
