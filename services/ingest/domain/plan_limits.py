"""What of a plan entry may be carried out: Kite's limits hold whatever the plan says."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from libs.common.contracts.messages import AccountPlan, StreamMode
from services.ingest.domain import subscriptions

CONNECTIONS_PER_KEY = 3
"""Kite answers a fourth with 429; trying again and again gets an app flagged."""

TOKENS_PER_CONNECTION = 3000
"""Kite refuses what is beyond, without a word on which."""

Book = dict[int, StreamMode]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a plan entry that is not carried out.

    Attributes:
        connection: Its number, from 0.
        reason: A bounded name, for metrics.
        tokens: How many instruments it asks for.
    """

    connection: int
    reason: Literal["too_many_connections", "too_many_tokens"]
    tokens: int


def admitted(plan: AccountPlan, current: Sequence[Book]) -> tuple[list[Book], list[Refusal]]:
    """Give what each connection shall stream, and what is refused.

    A connection that is asked for too much keeps what it has: the last that was in order.

    Args:
        plan: The plan entry.
        current: What each connection streams by the plan before.
    """
    books: list[Book] = []
    refusals: list[Refusal] = []
    for number, connection in enumerate(plan.connections):
        book = subscriptions.desired(connection)
        if number >= CONNECTIONS_PER_KEY:
            if book:
                refusals.append(
                    Refusal(connection=number, reason="too_many_connections", tokens=len(book))
                )
            continue
        if len(book) > TOKENS_PER_CONNECTION:
            refusals.append(Refusal(connection=number, reason="too_many_tokens", tokens=len(book)))
            book = current[number] if number < len(current) else {}
        books.append(book)
    return books, refusals
