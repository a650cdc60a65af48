"""Metrics of the control plane."""

from prometheus_client import Counter, Gauge

# 1 while this process leads. None or two leaders for over 10 s: look at the bucket leases_control.
LEADER = Gauge("tickfleet_control_leader", "Whether this process leads")
# Outcomes: minted, refused (wrong credentials: correct them, or log in by hand), unavailable
# (retried), unused (the leadership ended meanwhile), given (a person or a file brought the token).
LOGINS_TOTAL = Counter("tickfleet_control_logins_total", "Logins by outcome", ["outcome"])
# By exchange, `all` for one download of all that did not come. Outcomes: loaded; unavailable (no
# answer), refused (dead session, or no such exchange: see INSTRUMENT_EXCHANGES), truncated, empty,
# shrunken (lost more than INSTRUMENT_MAX_SHRINKAGE), unreadable (the format changed?), unsaved
# (PostgreSQL). All but loaded keep the rows of before and are tried again with growing pauses; the
# log says why.
DUMPS_TOTAL = Counter(
    "tickfleet_control_dumps_total", "Instrument downloads by outcome", ["exchange", "outcome"]
)
INSTRUMENTS = Gauge("tickfleet_control_instruments", "Instruments of the current dump")
# Days between the market's day and that of an exchange's rows. Above 0 in trading hours: new
# contracts of that exchange are missing; the log says why its dump is not taken.
DUMP_AGE_DAYS = Gauge(
    "tickfleet_control_dump_age_days", "Age of an exchange's instruments", ["exchange"]
)
# Rows of the last dump that could not be read. A few are Kite's; thousands mean a changed format.
DUMP_ROWS_SKIPPED = Gauge(
    "tickfleet_control_dump_rows_skipped", "Unreadable rows of the last dump", ["exchange"]
)
# Rows that lost their token to another row of the same dump. Kite's fault: the log names both.
DUPLICATE_TOKENS_TOTAL = Counter(
    "tickfleet_control_duplicate_tokens_total", "Rows that lost their token", ["exchange"]
)
# Rows that lost their token to a row of another exchange, nearly always to a newer download.
TOKEN_CONFLICTS_TOTAL = Counter(
    "tickfleet_control_token_conflicts_total", "Tokens claimed by two exchanges", ["exchange"]
)
# Tokens that mean another contract than in the revision before. Some after every expiry; many on
# one day mean that consumers who key by token alone mix contracts up (`GET /instruments?reused=`).
REUSED_TOKENS_TOTAL = Counter(
    "tickfleet_control_reused_tokens_total", "Tokens given to another contract", ["exchange"]
)
PLANNED = Gauge("tickfleet_control_planned_instruments", "Instruments in the plan")
# Wanted instruments that fit on no account: add an account, or narrow the windows.
UNPLACED = Gauge("tickfleet_control_unplaced_instruments", "Wanted instruments without a place")
PLANS_TOTAL = Counter("tickfleet_control_plans_total", "Plans written")
# Accounts whose instruments moved to others: the log says why under account.lost; ingest or the
# account's session needs help.
ACCOUNTS_LOST = Gauge("tickfleet_control_accounts_lost", "Accounts that count as lost")
# Instruments streamed elsewhere until their account is back. They go home in batches a minute after
# its return; a number that stands still although no account is lost: look for account.returning.
AWAY = Gauge("tickfleet_control_away_instruments", "Instruments away from their home account")
# Plans made because something changed, not because the interval was over. cause: wake, account.
WAKES_TOTAL = Counter("tickfleet_control_wakes_total", "Plans made out of turn", ["cause"])
# More than a few per minute and expiry in a calm market: the forward jumps, look at greeks.
WINDOW_MOVES_TOTAL = Counter("tickfleet_control_window_moves_total", "Moves of a window's centre")
# States written to the tables. More than the instruments per minute: a feed flaps.
STATES_WRITTEN_TOTAL = Counter(
    "tickfleet_control_states_written_total", "Subscription states written"
)
# Any: greeks and control are of different versions; windows follow the spot meanwhile.
FORWARDS_UNREADABLE_TOTAL = Counter(
    "tickfleet_control_forwards_unreadable_total", "Forwards that could not be decoded"
)
# Rounds of the leader that failed, by step. A steady rise: the log names the dependency.
ROUNDS_FAILED_TOTAL = Counter(
    "tickfleet_control_rounds_failed_total", "Leader rounds that failed", ["step"]
)
# Accounts by AccountCondition. waiting and refused ones need a person: GET /accounts says why.
ACCOUNTS = Gauge("tickfleet_control_accounts", "Accounts by condition", ["condition"])
# Sentences about sources and accounts that cannot be used; the log has them (accounts.problem).
ACCOUNT_PROBLEMS = Gauge("tickfleet_control_account_problems", "Problems of account sources")
# Sources that could not be read: user_service, database. What they said last stays in force.
SOURCE_FAILURES_TOTAL = Counter(
    "tickfleet_control_source_failures_total", "Account sources that could not be read", ["source"]
)
# Token files and tokens in descriptions that cannot be used; the log names them.
TOKENS_REFUSED_TOTAL = Counter(
    "tickfleet_control_tokens_refused_total", "Access tokens from elsewhere that are of no use"
)
# Account commands by verb and outcome: ok, or the code of the error.
COMMANDS_TOTAL = Counter(
    "tickfleet_control_account_commands_total", "Account commands", ["verb", "outcome"]
)
# Turns between the exchanges and the simulator that stands in while they are closed: two a day.
FEED_TURNS_TOTAL = Counter("tickfleet_control_feed_turns_total", "Turns of the feed", ["source"])
