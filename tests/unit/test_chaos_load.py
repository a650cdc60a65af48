"""The load of a chaos run is what its seed says, and made of commands that a fleet takes."""

from typing import Any, cast

import msgspec

from libs.common.contracts.orders import OrderCommand, PlaceOrder
from tests.chaos.load import Contract, Load

CONTRACTS = [Contract("NFO", f"NIFTY26DEC{strike}CE", 65, 100.0, 40.0) for strike in (1, 2, 3)]


def commands(seed: int, count: int = 400) -> list[dict[str, Any]]:
    load = Load(
        gateway_url="http://127.0.0.1:1",
        # Nothing is sent here.
        bus=cast("Any", None),
        accounts=["sim1"],
        contracts=CONTRACTS,
        count=count,
        per_second=5.0,
        seed=seed,
    )
    return list(load.commands("sim1", count))


def timeless(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = {"created_at_ns", "valid_until_ns"}
    return [{k: v for k, v in command.items() if k not in times} for command in given]


def test_every_command_is_one_that_the_contract_takes_and_has_a_key_of_its_own():
    made = [msgspec.convert(command, OrderCommand) for command in commands(1)]

    assert len({command.task_id for command in made}) == 400
    assert {type(command).__name__ for command in made} == {
        "PlaceOrder",
        "ModifyOrder",
        "CancelOrder",
    }
    assert {c.order_type.value for c in made if isinstance(c, PlaceOrder)} == {"MARKET", "LIMIT"}


def test_seed_says_what_is_sent():
    assert timeless(commands(7)) == timeless(commands(7))
    assert timeless(commands(7)) != timeless(commands(8))


def test_what_is_changed_or_cancelled_was_placed_before():
    placed: set[str] = set()
    for command in commands(3):
        target = command.get("target_task_id")
        assert target is None or target in placed
        if command["verb"] == "place":
            placed.add(command["task_id"])
