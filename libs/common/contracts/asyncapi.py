"""The contracts as an AsyncAPI document, and the gate that keeps them compatible.

`python -m libs.common.contracts.asyncapi --check` fails when the checked-in document is not the
one the structs give, or when it breaks a reader of the released one. `--write` brings the document
up to date; `--release` makes the present document the released one.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from libs.common.contracts import messages, orders, streams, subjects, websocket
from libs.common.contracts.messages import Message

FOLDER: Final = Path(__file__).parent
CURRENT: Final = FOLDER / "asyncapi.json"
RELEASED: Final = FOLDER / "asyncapi.released.json"


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """Where messages travel.

    Attributes:
        address: Subject, bucket key or path, with parameters in braces.
        protocol: `nats`, `nats-kv` or `ws`.
        messages: What travels there.
        sender: Which service publishes or writes.
        readers: Who subscribes or reads.
    """

    address: str
    protocol: str
    messages: tuple[type[Message], ...]
    sender: str
    readers: str


CHANNELS: Final = (
    Channel(
        address=f"{subjects.TICK_PREFIX}.{{underlying}}",
        protocol="nats",
        messages=(messages.Tick,),
        sender="greeks",
        readers="gateway, any subscriber; one JSON object per line",
    ),
    Channel(
        address=f"{subjects.LAST_PREFIX}.{{underlying}}.{{instrument_token}}",
        protocol="nats",
        messages=(messages.Tick,),
        sender="greeks",
        readers="gateway",
    ),
    Channel(
        address=f"{subjects.FORWARD_PREFIX}.{{underlying}}.{{expiry}}",
        protocol="nats",
        messages=(messages.Forward,),
        sender="greeks",
        readers="any subscriber",
    ),
    Channel(
        address=f"{subjects.ORDER_UPDATE_PREFIX}.{{account}}",
        protocol="nats",
        messages=(messages.OrderUpdate,),
        sender="ingest",
        readers="orders",
    ),
    Channel(
        address=f"{subjects.ORDER_COMMAND_PREFIX}.{{account}}.{{task_id}}",
        protocol="nats",
        messages=(orders.PlaceOrder, orders.ModifyOrder, orders.CancelOrder),
        sender="gateway, any service",
        readers="orders",
    ),
    Channel(
        address=f"{subjects.ORDER_EVENT_PREFIX}.{{account}}.{{task_id}}",
        protocol="nats",
        messages=(orders.OrderEvent,),
        sender="orders",
        readers="gateway, any subscriber",
    ),
    Channel(
        address=f"{subjects.ORDER_ACCOUNT_PREFIX}.{{account}}",
        protocol="nats",
        messages=(orders.AccountEvent,),
        sender="orders",
        readers="gateway, operator, any subscriber",
    ),
    Channel(
        address=f"{subjects.ORDER_DEAD_PREFIX}.{{account}}",
        protocol="nats",
        messages=(orders.DeadLetter,),
        sender="orders",
        readers="operator",
    ),
    Channel(
        address=f"{subjects.RPC_ORDERS}.{{account}}",
        protocol="nats",
        messages=(orders.OrderRequest, orders.OrderReply),
        sender="gateway, operator",
        readers="orders, which answers",
    ),
    Channel(
        address=f"{subjects.RPC_POSTBACK}.{{user_id}}",
        protocol="nats",
        messages=(orders.Postback, orders.OrderReply),
        sender="gateway",
        readers="orders, which answers",
    ),
    Channel(
        address=f"{streams.ORDER_CONTROLS.name}/{{account}}",
        protocol="nats-kv",
        messages=(orders.OrderControls,),
        sender="gateway, operator",
        readers="orders",
    ),
    Channel(
        address=f"{streams.PLAN.name}/{{account}}",
        protocol="nats-kv",
        messages=(messages.AccountPlan,),
        sender="control",
        readers="ingest, gateway",
    ),
    Channel(
        address=f"{streams.KITE_SESSIONS.name}/{{account}}",
        protocol="nats-kv",
        messages=(messages.KiteSession,),
        sender="control",
        readers="ingest, orders; Fernet-encrypted",
    ),
    Channel(
        address=f"{streams.INSTRUMENTS.name}/{{underlying}}",
        protocol="nats-kv",
        messages=(messages.InstrumentSet,),
        sender="control",
        readers="greeks, gateway; MessagePack",
    ),
    Channel(
        address=f"{streams.CHECKPOINTS.name}/{{shard}}",
        protocol="nats-kv",
        messages=(messages.Checkpoint,),
        sender="greeks",
        readers="greeks",
    ),
    Channel(
        address=f"{streams.STATUS.name}/{{who}}",
        protocol="nats-kv",
        messages=(
            messages.FeedStatus,
            messages.GreeksStatus,
            messages.ControlStatus,
            orders.OrdersStatus,
        ),
        sender="all",
        readers="gateway, operator",
    ),
    Channel(
        address=f"{subjects.BAR_PREFIX}.{{underlying}}.1s",
        protocol="nats",
        messages=(messages.Bar,),
        sender="greeks",
        readers="any subscriber",
    ),
    Channel(
        address=f"{subjects.CHAIN_PREFIX}.{{underlying}}.{{expiry}}",
        protocol="nats",
        messages=(messages.Chain,),
        sender="greeks",
        readers="gateway, any subscriber",
    ),
    Channel(
        address=f"{subjects.VOL_PREFIX}.{{underlying}}.{{expiry}}",
        protocol="nats",
        messages=(messages.VolCurve,),
        sender="greeks",
        readers="gateway, any subscriber",
    ),
    Channel(
        address=subjects.RPC_CANDLES,
        protocol="nats",
        messages=(messages.CandlesRequest, messages.CandlesPart),
        sender="gateway, any service",
        readers="greeks, which answers with a stream of parts",
    ),
    Channel(
        address=subjects.RPC_EXPLAIN,
        protocol="nats",
        messages=(messages.ExplainRequest, messages.ExplainReply),
        sender="gateway, operator",
        readers="greeks, which answers; `.<shard>` is the shard's owner",
    ),
    Channel(
        address=subjects.RPC_HISTORY,
        protocol="nats",
        messages=(messages.HistoryRequest, messages.HistoryPart),
        sender="any service",
        readers="ingest, which answers with a stream of parts; `.<account>` for one account alone",
    ),
    Channel(
        address=subjects.RPC_QUOTE,
        protocol="nats",
        messages=(messages.QuoteRequest, messages.QuoteReply),
        sender="any service",
        readers="ingest, which answers; `.<account>` for one account alone",
    ),
    Channel(
        address=subjects.RPC_ACCOUNTS,
        protocol="nats",
        messages=(messages.AccountCommand, messages.AccountReply),
        sender="gateway, operator",
        readers="control, which answers",
    ),
    Channel(
        address=f"{streams.ACCOUNTS.name}/{{account}}",
        protocol="nats-kv",
        messages=(messages.AccountState,),
        sender="control",
        readers="gateway, operator, the next leader",
    ),
    Channel(
        address=f"{streams.COVERAGE.name}/{{account}}",
        protocol="nats-kv",
        messages=(messages.FeedCoverage,),
        sender="ingest",
        readers="control, operator; MessagePack",
    ),
    Channel(
        address="/ws/ticks",
        protocol="ws",
        messages=(
            websocket.Subscribe,
            websocket.Unsubscribe,
            websocket.SubscribeOrders,
            websocket.UnsubscribeOrders,
            websocket.Ping,
            websocket.Authenticate,
            websocket.Connected,
            websocket.Authenticated,
            websocket.Subscribed,
            websocket.Unsubscribed,
            websocket.OrdersSubscribed,
            websocket.ErrorMessage,
            websocket.Pong,
        ),
        sender="gateway and its clients",
        readers="gateway and its clients",
    ),
)


def all_messages() -> list[type[Message]]:
    """Every message of every channel, once, by name."""
    found = {message for channel in CHANNELS for message in channel.messages}
    return sorted(found, key=lambda message: message.__name__)


def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document that the structs give."""
    kinds = all_messages()
    references, schemas = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tickfleet",
            "version": "1",
            "description": "Messages on the bus and on the client WebSocket. Raw frames on "
            f"{subjects.FRAME_PREFIX}.<shard>.<account> are Kite's binary format, not JSON.",
            "license": {"name": "Apache-2.0"},
        },
        "channels": {
            channel.address: {
                "address": channel.address,
                "description": f"Sent by: {channel.sender}. Read by: {channel.readers}.",
                "messages": {
                    kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"}
                    for kind in channel.messages
                },
                "bindings": {channel.protocol: {}},
            }
            for channel in CHANNELS
        },
        "components": {
            "messages": {
                kind.__name__: {"name": kind.__name__, "payload": reference}
                for kind, reference in zip(kinds, references, strict=True)
            },
            "schemas": dict(sorted(schemas.items())),
        },
    }


def encode(content: Mapping[str, Any]) -> bytes:
    """The document as it is checked in."""
    raw = msgspec.json.encode(content, order="deterministic")
    return msgspec.json.format(raw, indent=2) + b"\n"


def breaks(released: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What would break a reader or writer of the released contracts.

    A channel, message or field that is gone, a field with another type, an enumeration that lost
    a value, and a field that is required now and was not: each needs a new class and a new
    subject instead. New optional fields, new messages and new values are fine.
    """
    found = [
        f"channel {address} is gone"
        for address in released["channels"]
        if address not in current["channels"]
    ]
    old_schemas = released["components"]["schemas"]
    new_schemas = current["components"]["schemas"]
    for name, old in old_schemas.items():
        new = new_schemas.get(name)
        if new is None:
            found.append(f"{name} is gone")
            continue
        found.extend(_schema_breaks(name, old, new))
    return found


def _schema_breaks(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    lost = set(old.get("enum", ())) - set(new.get("enum", ()))
    if lost:
        found.append(f"{name} lost the values {', '.join(sorted(map(str, lost)))}")
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    for field, shape in old_fields.items():
        if field not in new_fields:
            found.append(f"{name}.{field} is gone")
        elif _type_of(shape) != _type_of(new_fields[field]):
            found.append(f"{name}.{field} has another type")
    fresh = set(new.get("required", ())) - set(old.get("required", ()))
    found.extend(f"{name}.{field} is newly required" for field in sorted(fresh))
    return found


def _type_of(shape: Mapping[str, Any]) -> object:
    """The type without what may change freely: descriptions, examples, defaults, bounds."""
    if "anyOf" in shape:
        return sorted(str(_type_of(part)) for part in shape["anyOf"])
    kept = {key: shape[key] for key in ("type", "$ref", "const", "format") if key in shape}
    for key in ("items", "additionalProperties"):
        if isinstance(shape.get(key), Mapping):
            kept[key] = _type_of(shape[key])
    return str(sorted(kept.items(), key=str))


def main(arguments: Sequence[str]) -> int:
    """Check, write or release; gives the exit status."""
    parser = argparse.ArgumentParser(prog="asyncapi", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="fail unless current and compatible")
    action.add_argument("--write", action="store_true", help="write asyncapi.json")
    action.add_argument("--release", action="store_true", help="make it the released one")
    chosen = parser.parse_args(arguments)
    current = document()
    problems: list[str] = []
    if RELEASED.exists() and not chosen.release:
        problems = breaks(msgspec.json.decode(RELEASED.read_bytes()), current)
    if chosen.check and (not CURRENT.exists() or CURRENT.read_bytes() != encode(current)):
        problems.append("asyncapi.json is not current: run `make schema` and commit it")
    if problems:
        sys.stderr.write("contracts:\n  " + "\n  ".join(problems) + "\n")
        return 1
    if chosen.write or chosen.release:
        CURRENT.write_bytes(encode(current))
    if chosen.release:
        RELEASED.write_bytes(encode(current))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
