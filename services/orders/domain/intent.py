"""One request to the broker and where it stands: a slice of an order, a change, a cancellation."""

from enum import StrEnum
from typing import Any, Final

import msgspec

from libs.common.contracts.orders import OrderState
from libs.common.domain.order_answers import FINAL_STATUSES
from services.orders.domain.tags import tag_of

__all__ = ["SETTLED", "Intent", "Verb", "new_intent", "replacement_of"]

SETTLED: Final = frozenset(
    {
        OrderState.COMPLETE,
        OrderState.CANCELLED,
        OrderState.REJECTED,
        OrderState.FAILED,
        OrderState.DEAD_LETTER,
    }
)
"""States that only the broker's own word still changes."""


class Verb(StrEnum):
    """What a request does."""

    PLACE = "place"
    MODIFY = "modify"
    CANCEL = "cancel"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the broker: a row of `order_intents`, and what is known of it besides.

    The fields after `settled_at_ns` are not in the ledger. After a take-over they begin anew,
    which makes the search for an unknown request longer, never shorter.

    Attributes:
        tag: Carried at the broker; never used for another request.
        account: Whose order it is.
        task_id: The command that needs it.
        leg: Which request of the task: 0, 1, 2 …
        verb: What it does.
        state: Where it stands.
        exchange: Of the order; None when a change names an order not known here.
        tradingsymbol: As `exchange`.
        parameters: What is sent, as kiteconnect's arguments.
        quantity: Units it orders, or changes the order to; None for a cancellation.
        attempts: How often it was sent, or tried to be.
        order_id: The broker's number: of the order it placed, or of the one it is about.
        status: The broker's last word about the order, as it spells it; None without any.
        status_message: The broker's reason.
        filled_quantity: Units traded; never falls.
        average_price: Rupees, of those.
        code: Why it stands there, for programs.
        message: Why, for people.
        replaces: The tag of the request that a person decided to send again as this one.
        sent_at_ns: When it last left; None before.
        settled_at_ns: When it settled; None before.
        valid_until_ns: Not sent after this; None for no end.
        retry_at_ns: When to send again; None when nothing waits for a time.
        looking_since_ns: Since when its outcome is looked for; None when it is known.
        looks: How often the broker was asked since, and answered.
        looked_at_ns: When it last answered.
        other_order_ids: Orders that carry this tag and are not `order_id`.
    """

    tag: str
    account: str
    task_id: str
    leg: int
    verb: Verb
    state: OrderState = OrderState.PENDING
    exchange: str | None = None
    tradingsymbol: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    quantity: int | None = None
    attempts: int = 0
    order_id: str | None = None
    status: str | None = None
    status_message: str | None = None
    filled_quantity: int = 0
    average_price: float | None = None
    code: str = ""
    message: str = ""
    replaces: str | None = None
    sent_at_ns: int | None = None
    settled_at_ns: int | None = None
    valid_until_ns: int | None = None
    retry_at_ns: int | None = None
    looking_since_ns: int | None = None
    looks: int = 0
    looked_at_ns: int | None = None
    other_order_ids: tuple[str, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is done for it."""
        return self.state in SETTLED

    @property
    def has_final_word(self) -> bool:
        """Whether the broker itself said that the order is at its end."""
        return self.status in FINAL_STATUSES

    @property
    def is_replaced(self) -> bool:
        """Whether another request of the task stands for it."""
        return self.code == "replaced"


def new_intent(
    *,
    account: str,
    task_id: str,
    leg: int,
    verb: Verb,
    parameters: dict[str, Any],
    quantity: int | None = None,
    order_id: str | None = None,
    exchange: str | None = None,
    tradingsymbol: str | None = None,
    valid_until_ns: int | None = None,
    replaces: str | None = None,
) -> Intent:
    """A request that nothing has happened to yet, with its tag."""
    return Intent(
        tag=tag_of(account, task_id, leg),
        account=account,
        task_id=task_id,
        leg=leg,
        verb=verb,
        parameters=parameters,
        quantity=quantity,
        order_id=order_id,
        exchange=exchange,
        tradingsymbol=tradingsymbol,
        valid_until_ns=valid_until_ns,
        replaces=replaces,
    )


def replacement_of(intent: Intent, *, leg: int, valid_until_ns: int | None) -> Intent:
    """The request that a person decided to send instead of one that was not found.

    Args:
        intent: The one that was not found.
        leg: Above every leg of the task, so that the tag is fresh.
        valid_until_ns: The old end has usually passed; None for no end.

    Raises:
        ValueError: The leg is not above that of the request it replaces.
    """
    if leg <= intent.leg:
        raise ValueError(f"leg {leg} is not above {intent.leg}, the leg that it replaces")
    return new_intent(
        account=intent.account,
        task_id=intent.task_id,
        leg=leg,
        verb=intent.verb,
        parameters=intent.parameters,
        quantity=intent.quantity,
        order_id=None if intent.verb is Verb.PLACE else intent.order_id,
        exchange=intent.exchange,
        tradingsymbol=intent.tradingsymbol,
        valid_until_ns=valid_until_ns,
        replaces=intent.tag,
    )
