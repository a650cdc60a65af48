"""Decides which member owns which resource: rendezvous hashing with bounded load."""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b


def assign(resources: Iterable[str], members: Iterable[str]) -> dict[str, str]:
    """Share resources among members, the same way in every process that sees the same names.

    Every pair (resource, member) has a fixed pseudo-random weight. Pairs are served heaviest
    first: a resource goes to the first member that still has room. Each member has room for
    `n // m` resources, and the first `n % m` that need it for one more, so loads differ by at
    most one. A pair's weight does not depend on the other names, so a member that comes or goes
    moves its own share and little else (rendezvous hashing, Thaler and Ravishankar 1998; bounded
    loads, Mirrokni, Thorup and Zadimoghaddam 2018).

    Args:
        resources: Names; repeats count once.
        members: Names; repeats count once.

    Returns:
        Resource to member. Empty when there are no members.
    """
    return dict(_assign(tuple(sorted(set(resources))), tuple(sorted(set(members)))))


@lru_cache(maxsize=32)
def _assign(resources: tuple[str, ...], members: tuple[str, ...]) -> dict[str, str]:
    if not members:
        return {}
    room, extras = divmod(len(resources), len(members))
    load = dict.fromkeys(members, 0)
    owners: dict[str, str] = {}
    pairs = sorted(
        (
            (_weight(resource, member), resource, member)
            for resource in resources
            for member in members
        ),
        reverse=True,
    )
    for _, resource, member in pairs:
        if resource in owners:
            continue
        if load[member] > room or (load[member] == room and extras == 0):
            continue
        if load[member] == room:
            extras -= 1
        load[member] += 1
        owners[resource] = member
    return owners


def _weight(resource: str, member: str) -> int:
    # A separator that no name should hold keeps ("ab", "c") and ("a", "bc") apart.
    text = f"{resource}\x00{member}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
