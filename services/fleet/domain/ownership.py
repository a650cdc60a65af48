"""Reads from the lease buckets who owns what."""

from collections.abc import Mapping

import msgspec

from libs.common.contracts.subjects import unescape

Ownership = dict[str, tuple[str, ...]]
"""Worker to what it holds, such as `("account sim1", "account sim2")`."""

# How a person calls the resources of a bucket.
_KINDS = {
    "leases_control": "leader",
    "leases_accounts": "account",
    "leases_shards": "shard",
    "leases_orders": "orders",
}


class _Holder(msgspec.Struct, frozen=True):
    """The part of a lease entry that matters here."""

    member: str


def ownership(buckets: Mapping[str, Mapping[str, bytes]]) -> Ownership:
    """Give what each worker holds, in natural order.

    Args:
        buckets: Name of a lease bucket to its entries, key to value. Keys `m.<member>` say who is
            alive; the others are `<prefix>.<resource>` and name their holder.
    """
    held: dict[str, list[tuple[str, int, str]]] = {}
    for bucket, entries in buckets.items():
        kind = _KINDS.get(bucket, bucket)
        for key, value in entries.items():
            if key.startswith("m."):
                continue
            resource = unescape(key.partition(".")[2] or key)
            number = int(resource) if resource.isdecimal() else 0
            held.setdefault(_holder(value), []).append((kind, number, resource))
    return {
        member: tuple(f"{kind} {resource}" for kind, _, resource in sorted(items))
        for member, items in sorted(held.items())
    }


def summary(owned: tuple[str, ...]) -> str:
    """Give what a worker holds in few words: `leader`, `account sim1`, `shards 0 3 7`.

    `orders sim1 sim2` are the orders of these accounts.
    """
    by_kind: dict[str, list[str]] = {}
    for item in owned:
        kind, _, resource = item.partition(" ")
        by_kind.setdefault(kind, []).append(resource)
    parts = []
    for kind, resources in by_kind.items():
        if kind == "leader":
            parts.append(kind)
        else:
            plural = "s" if len(resources) > 1 and not kind.endswith("s") else ""
            parts.append(f"{kind}{plural} {' '.join(resources)}")
    return ", ".join(parts)


def _holder(value: bytes) -> str:
    try:
        return msgspec.json.decode(value, type=_Holder).member
    except msgspec.DecodeError:
        return value.decode("utf-8", errors="replace")
