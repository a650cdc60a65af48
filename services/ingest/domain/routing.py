"""Which shard each planned instrument belongs to, as sorted arrays for the frame splitter."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import AccountPlan
from libs.common.contracts.subjects import shard_of


@dataclass(frozen=True, slots=True)
class ShardTable:
    """Instrument to shard.

    Attributes:
        tokens: Instrument tokens, ascending, int64[n].
        shards: The shard of each, int16[n].
    """

    tokens: npt.NDArray[np.int64]
    shards: npt.NDArray[np.int16]

    @classmethod
    def empty(cls) -> "ShardTable":
        """A table that knows no instrument."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int16))

    @classmethod
    def of(cls, plan: AccountPlan, shards: int) -> "ShardTable":
        """The table of an account's plan, all its connections together."""
        known: dict[int, int] = {}
        for connection in plan.connections:
            for group in connection.groups:
                shard = shard_of(group.underlying, shards)
                for token in group.tokens:
                    known[token] = shard
        tokens = np.fromiter(known, np.int64, len(known))
        keys = np.fromiter(known.values(), np.int16, len(known))
        order = np.argsort(tokens, kind="stable")
        return cls(tokens[order], keys[order])
