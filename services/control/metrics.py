"""Metrics of the control plane."""

from prometheus_client import Counter, Gauge

# 1 while this process leads. None or two leaders for over 10 s: look at the bucket leases_control.
LEADER = Gauge("tickfleet_control_leader", "Whether this process leads")
# Outcomes: minted, refused (wrong credentials: fix them and restart), unavailable (retried).
LOGINS_TOTAL = Counter("tickfleet_control_logins_total", "Logins by outcome", ["outcome"])
# Outcomes: loaded, unusable (the old dump stays), unavailable (retried).
DUMPS_TOTAL = Counter("tickfleet_control_dumps_total", "Instrument downloads", ["outcome"])
INSTRUMENTS = Gauge("tickfleet_control_instruments", "Instruments of the current dump")
# Rows of the last dump that could not be read. A few are Kite's; thousands mean a changed format.
DUMP_ROWS_SKIPPED = Gauge("tickfleet_control_dump_rows_skipped", "Unreadable rows of the last dump")
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
