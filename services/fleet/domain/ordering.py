"""Puts processes that require each other into levels that can start at the same time."""

from collections.abc import Mapping, Sequence


def levels(requires: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Order names so that each stands in a later level than all that it requires.

    Args:
        requires: Name to the names it requires.

    Returns:
        The levels, first to start first; inside a level the order of the mapping.

    Raises:
        ValueError: A name requires one that does not exist, or itself in a circle.
    """
    for name, needed in requires.items():
        for other in needed:
            if other not in requires:
                raise ValueError(f"{name} requires {other}, which does not exist")
    result: list[list[str]] = []
    placed: set[str] = set()
    while len(placed) < len(requires):
        level = [
            name
            for name, needed in requires.items()
            if name not in placed and placed.issuperset(needed)
        ]
        if not level:
            circle = ", ".join(name for name in requires if name not in placed)
            raise ValueError(f"these require each other in a circle: {circle}")
        result.append(level)
        placed.update(level)
    return result


def stop_budget_seconds(remaining_seconds: float, levels_left: int) -> float:
    """How long one level may take to stop by itself before it is killed.

    The first may take most of what is left, but never the share that the later ones, in the end
    the database, need for a clean stop of their own.

    Args:
        remaining_seconds: Until the one deadline of the whole stop.
        levels_left: How many levels have to stop after this one.
    """
    reserve = min(0.15, 0.6 / max(1, levels_left)) * levels_left
    return max(0.0, remaining_seconds * (1.0 - reserve))
