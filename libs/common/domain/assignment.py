"""Who should own what: rendezvous hashing with bounded load."""

import hashlib
from collections.abc import Iterable


def _rank(resource: str, member: str) -> int:
    # Not hash(): it differs from process to process, and all members must agree.
    digest = hashlib.blake2b(f"{resource}\0{member}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def assign(resources: Iterable[str], members: Iterable[str]) -> dict[str, str]:
    """Give every resource its member.

    Each resource ranks the members by a hash of both names and takes the first that is not full;
    full means ceil(resources / members). Everybody who knows the same names computes the same
    answer, the loads differ by the bound at most, and a member that joins or leaves moves little
    more than its own share.

    Returns:
        Resource to member; empty without members. Does not depend on the order of the arguments.
    """
    names = sorted(set(resources))
    alive = sorted(set(members))
    if not alive:
        return {}
    bound = -(-len(names) // len(alive))
    load = dict.fromkeys(alive, 0)
    owners: dict[str, str] = {}
    for resource in names:
        for member in sorted(alive, key=lambda m: (_rank(resource, m), m), reverse=True):
            if load[member] < bound:
                load[member] += 1
                owners[resource] = member
                break
    return owners
