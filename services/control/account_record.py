"""What the leader remembers of one account: description, session, logins, and the word for it."""

import asyncio
import time
from typing import TYPE_CHECKING

from libs.common import logs
from libs.common.contracts.messages import (
    AccountCondition,
    AccountSource,
    AccountState,
    FeedStatus,
    KiteSession,
)
from libs.common.domain.clock import NS_PER_SECOND
from services.control.domain import accounts, login_rules
from services.control.domain.accounts import Account
from services.control.domain.login_rules import Verdict

if TYPE_CHECKING:
    from datetime import datetime


class AccountRecord:
    """One account in one leadership term.

    Attributes:
        description: As the winning source has it.
        enabled: Whether people want it used.
        remembered: Known only by its session, because its source has not answered yet.
        session: The session in force, living or dead; None before the first.
        wants_new: Whether the session in force is of no use any more.
        unsaved: Whether the bus does not have the session yet.
        history: What became of its logins.
        begun_at: When its last login began, monotonic seconds.
        refused_fingerprint: Of the credentials that Kite refused.
        refusal_before: What an earlier leader said about a refusal that still stands.
        market_at_mint: What the market's clock said when the session was made; None if unknown.
        session_market_time: When the market's clock was first seen with this session.
        tried: Digests of the offered tokens that were looked at.
        offer_after: No offered token is looked at earlier, monotonic seconds.
        lock: Held while a session is made, so that there is one login at a time.
        lost_since_ns: Since when its feed has been away.
    """

    def __init__(self, description: Account) -> None:
        self.description = description
        self.enabled = True
        self.remembered = False
        self.session: KiteSession | None = None
        self.wants_new = True
        self.unsaved = False
        self.history = login_rules.History()
        self.begun_at = float("-inf")
        self.refused_fingerprint: str | None = None
        self.refusal_before = ""
        self.market_at_mint: datetime | None = None
        self.session_market_time: datetime | None = None
        self.tried: set[str] = set()
        self.offer_after = float("-inf")
        self.lock = asyncio.Lock()
        self.lost_since_ns: int | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.description.name

    @property
    def is_alive(self) -> bool:
        """Whether it has a session that nothing speaks against."""
        return self.enabled and self.session is not None and not self.wants_new

    def is_refused_by(self, feed: FeedStatus) -> bool:
        """Whether a feed reports that Kite refused the session in force, and not an older one."""
        return self.session is not None and (feed.session_minted_at_ns == self.session.minted_at_ns)

    def forgive(self) -> None:
        """Forget what became of logins: the credentials are other ones, or a person answers."""
        self.history = login_rules.asked_by_a_person(self.history)
        self.refused_fingerprint = None
        self.refusal_before = ""

    def session_died(self, limits: login_rules.Limits) -> bool:
        """Kite refused the session in force; says whether that is news."""
        if self.session is None or self.wants_new:
            return False
        self.wants_new = True
        self.history = login_rules.died(
            self.history,
            time.monotonic(),
            limits,
            life_seconds=(time.time_ns() - self.session.minted_at_ns) / NS_PER_SECOND,
        )
        return True

    def condition(self, limits: login_rules.Limits) -> tuple[AccountCondition, str]:
        """What it can be counted on for, and why, for people."""
        if not self.enabled:
            return AccountCondition.DISABLED, "switched off by a person; enable it to use it"
        if self.is_alive:
            word = f"runs on its last session until {self.description.place} can be read"
            return AccountCondition.READY, word if self.remembered else ""
        by_hand = f"tickfleet login {self.name}"
        if self.description.credentials() is None:
            lacks = "totp_secret" if self.description.api_secret else "api_secret"
            reason = f"waits for a login by a person (it has no {lacks}): {by_hand}"
            return AccountCondition.WAITING, reason
        found = login_rules.verdict(self.history, time.monotonic(), limits)
        if found is Verdict.REFUSED:
            reason = self.refusal_before or (
                f"Kite refused the login, {self.history.refused}; correct the credentials or log "
                f"in by hand: {by_hand}"
            )
            return AccountCondition.REFUSED, reason
        if found is Verdict.USED_UP:
            reason = (
                f"{self.history.attempts} logins today gave no lasting session; the next try is "
                f"at 06:05 IST, or by hand: {by_hand}"
            )
            return AccountCondition.WAITING, reason
        return AccountCondition.LOGGING_IN, self._trouble()

    def _trouble(self) -> str:
        if self.history.code_refusals:
            return "the one-time code was refused; once more"
        if self.history.failures:
            return f"no answer from Kite, {self.history.failures} times in a row"
        return ""

    def state(
        self,
        limits: login_rules.Limits,
        *,
        connections: int,
        tokens_per_connection: int,
    ) -> AccountState:
        """The message for others, without secrets; `at_ns` is now.

        Args:
            limits: Of its logins.
            connections: For accounts that do not say.
            tokens_per_connection: For accounts that do not say.
        """
        condition, reason = self.condition(limits)
        described = self.description
        user_id = described.user_id or (self.session.user_id if self.session else None)
        return AccountState(
            account=self.name,
            source=described.source,
            condition=condition,
            reason=described.scrub(logs.redact(reason)),
            connections=described.connections or connections,
            tokens_per_connection=described.tokens_per_connection or tokens_per_connection,
            user_id=accounts.masked(user_id),
            logged_in_at_ns=self.session.minted_at_ns if self.session else None,
            lost_since_ns=self.lost_since_ns,
            refused_fingerprint=self.refused_fingerprint,
            login_failures=self.history.failures,
            at_ns=time.time_ns(),
        )


def remembered(state: AccountState, session: KiteSession) -> AccountRecord:
    """An account whose source has not answered yet, known by its last state and its session."""
    record = AccountRecord(
        Account(
            name=state.account,
            source=state.source,
            place=_PLACES[state.source],
            api_key=session.api_key,
            connections=state.connections,
            tokens_per_connection=state.tokens_per_connection,
        )
    )
    record.remembered = True
    return record


_PLACES = {
    AccountSource.USER_SERVICE: "the user service",
    AccountSource.FILE: "KITE_ACCOUNTS_FILE",
    AccountSource.ENVIRONMENT: "the environment",
    AccountSource.SINGLE: "the environment",
    AccountSource.DATABASE: "the table accounts",
}
