"""Every NATS subject of the fleet, spelled once."""

from datetime import date

FRAME_PREFIX = "md.frame.v1"
TICK_PREFIX = "md.tick.v1"
LAST_PREFIX = "md.last.v1"
FORWARD_PREFIX = "md.forward.v1"
BAR_PREFIX = "md.bar.v1"
CHAIN_PREFIX = "md.chain.v1"
VOL_PREFIX = "md.vol.v1"
ORDER_UPDATE_PREFIX = "order.update.v1"
ORDER_COMMAND_PREFIX = "order.command.v1"
ORDER_EVENT_PREFIX = "order.event.v1"
ORDER_ACCOUNT_PREFIX = "order.account.v1"
ORDER_DEAD_PREFIX = "order.dead.v1"
RPC_ORDERS = "rpc.orders.v1"
RPC_POSTBACK = "rpc.postback.v1"
RPC_HISTORY = "rpc.history.v1"
RPC_QUOTE = "rpc.quote.v1"
RPC_CANDLES = "rpc.candles.v1"
RPC_EXPLAIN = "rpc.explain.v1"
RPC_ACCOUNTS = "rpc.accounts.v1"
# A hint without content that something control reads has changed; losing it costs one interval.
WAKE_CONTROL = "control.wake.v1"

ALL_TICKS = f"{TICK_PREFIX}.*"
ALL_LAST = f"{LAST_PREFIX}.*.*"
ALL_FORWARDS = f"{FORWARD_PREFIX}.*.*"
ALL_BARS = f"{BAR_PREFIX}.*.*"
ALL_CHAINS = f"{CHAIN_PREFIX}.*.*"
ALL_VOL_CURVES = f"{VOL_PREFIX}.*.*"
ALL_ORDER_COMMANDS = f"{ORDER_COMMAND_PREFIX}.*.*"
ALL_ORDER_EVENTS = f"{ORDER_EVENT_PREFIX}.*.*"
ALL_ORDER_ACCOUNT_EVENTS = f"{ORDER_ACCOUNT_PREFIX}.*"
ALL_DEAD_LETTERS = f"{ORDER_DEAD_PREFIX}.*"

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193


def escape(name: str) -> str:
    """Make any name one subject token of `[A-Za-z0-9_-]`.

    Every UTF-8 byte outside `[A-Za-z0-9-]` becomes `_` and two upper-case hex digits, the
    underscore itself included, so that `unescape` is exact: `M&M` -> `M_26M`.

    Raises:
        ValueError: If the name is empty; NATS has no empty token.
    """
    if not name:
        raise ValueError("a subject token cannot be empty")
    return "".join(
        chr(byte) if chr(byte) in _PLAIN else f"_{byte:02X}" for byte in name.encode("utf-8")
    )


def unescape(token: str) -> str:
    """Give back the name that `escape` turned into a token.

    Raises:
        ValueError: If the token is not one that `escape` makes.
    """
    out = bytearray()
    position = 0
    while position < len(token):
        char = token[position]
        if char == "_":
            digits = token[position + 1 : position + 3]
            if len(digits) != 2:
                raise ValueError(f"subject token {token!r} ends inside an escape")
            out.append(int(digits, 16))
            position += 3
        else:
            out += char.encode("utf-8")
            position += 1
    return out.decode("utf-8")


def shard_of(underlying: str, shards: int) -> int:
    """The shard that owns an underlying: FNV-1a-32 modulo the number of shards.

    This equals the NATS server's own `partition()` function, so a server-side mapping could take
    over. An index, its futures and all its options share their underlying and so their shard.
    """
    if shards < 1:
        raise ValueError("a deployment has at least one shard")
    value = _FNV_OFFSET
    for byte in underlying.encode("utf-8"):
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value % shards


def frame(shard: int, account: str) -> str:
    """Raw Kite packets of one shard, as one account's connection received them."""
    return f"{FRAME_PREFIX}.{shard}.{escape(account)}"


def frames_of_shard(shard: int) -> str:
    """All accounts' frames of one shard."""
    return f"{FRAME_PREFIX}.{shard}.*"


def frame_beat(worker: str) -> str:
    """The acknowledged heartbeat by which an ingest worker proves that MD_FRAMES stores."""
    return f"{FRAME_PREFIX}.beat.{escape(worker)}"


def tick(underlying: str) -> str:
    """Enriched ticks of one underlying, newline-delimited JSON."""
    return f"{TICK_PREFIX}.{escape(underlying)}"


def last(underlying: str, instrument_token: int) -> str:
    """The newest tick of one instrument."""
    return f"{LAST_PREFIX}.{escape(underlying)}.{instrument_token}"


def forward(underlying: str, expiry: date) -> str:
    """The forward of one expiry."""
    return f"{FORWARD_PREFIX}.{escape(underlying)}.{expiry.isoformat()}"


def forwards_of(underlying: str) -> str:
    """The forwards of all expiries of one underlying."""
    return f"{FORWARD_PREFIX}.{escape(underlying)}.*"


def chain(underlying: str, expiry: date) -> str:
    """The strikes around the money of one expiry."""
    return f"{CHAIN_PREFIX}.{escape(underlying)}.{expiry.isoformat()}"


def vol_curve(underlying: str, expiry: date) -> str:
    """The volatility curve of one expiry."""
    return f"{VOL_PREFIX}.{escape(underlying)}.{expiry.isoformat()}"


def expiry_of(subject: str) -> tuple[str, date]:
    """Underlying and expiry of the subject of a forward, a chain or a volatility curve.

    Raises:
        ValueError: If it is the subject of something else.
    """
    *_, underlying, day = subject.split(".")
    return unescape(underlying), date.fromisoformat(day)


def order_update(account: str) -> str:
    """Order updates that the broker pushed over an account's market-data connection."""
    return f"{ORDER_UPDATE_PREFIX}.{escape(account)}"


def order_command(account: str, task_id: str) -> str:
    """One command; the broker keeps the first message of this subject and refuses another."""
    return f"{ORDER_COMMAND_PREFIX}.{escape(account)}.{escape(task_id)}"


def order_commands_of(account: str) -> str:
    """All commands of one account."""
    return f"{ORDER_COMMAND_PREFIX}.{escape(account)}.*"


def task_of(subject: str) -> tuple[str, str]:
    """Account and task of the subject of a command or of an event.

    Raises:
        ValueError: If it is the subject of something else.
    """
    *_, account, task_id = subject.split(".")
    return unescape(account), unescape(task_id)


def order_event(account: str, task_id: str) -> str:
    """What happened to one task."""
    return f"{ORDER_EVENT_PREFIX}.{escape(account)}.{escape(task_id)}"


def order_account_event(account: str) -> str:
    """What happened to the orders of an account as a whole."""
    return f"{ORDER_ACCOUNT_PREFIX}.{escape(account)}"


def dead_letter(account: str) -> str:
    """Commands of an account that will not be executed."""
    return f"{ORDER_DEAD_PREFIX}.{escape(account)}"


def rpc_orders_of(account: str) -> str:
    """Requests to the worker that holds the orders of an account."""
    return f"{RPC_ORDERS}.{escape(account)}"


def rpc_postback_of(user_id: str) -> str:
    """The broker's postbacks for one of its users."""
    return f"{RPC_POSTBACK}.{escape(user_id)}"


def bar(underlying: str) -> str:
    """One-second bars of an underlying."""
    return f"{BAR_PREFIX}.{escape(underlying)}.1s"


def rpc_history_of(account: str) -> str:
    """Candles through one account alone."""
    return f"{RPC_HISTORY}.{escape(account)}"


def rpc_quote_of(account: str) -> str:
    """Quotes through one account alone."""
    return f"{RPC_QUOTE}.{escape(account)}"


def rpc_explain_of(shard: int) -> str:
    """How the Greeks of an option of one shard came about, answered by the shard's owner."""
    return f"{RPC_EXPLAIN}.{shard}"
