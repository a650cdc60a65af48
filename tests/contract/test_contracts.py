"""The contracts: examples decode, the document is current, and the gate catches what breaks."""

import copy

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import asyncapi, codec, streams, subjects
from libs.common.contracts.messages import AccountPlan, IvStatus, Tick

EXAMPLES = asyncapi.FOLDER / "examples"


@pytest.mark.parametrize("kind", asyncapi.all_messages(), ids=lambda kind: kind.__name__)
def test_every_message_has_an_example_that_decodes_and_encodes_to_itself(kind):
    raw = (EXAMPLES / f"{kind.__name__}.json").read_bytes()
    message = codec.from_json(kind, raw)
    assert msgspec.json.decode(codec.to_json(message)) == msgspec.json.decode(raw)


def test_no_example_is_left_over():
    names = {path.stem for path in EXAMPLES.glob("*.json")}
    assert names == {kind.__name__ for kind in asyncapi.all_messages()}


def test_checked_in_document_is_the_one_the_structs_give():
    assert asyncapi.CURRENT.read_bytes() == asyncapi.encode(asyncapi.document())


def test_document_does_not_break_itself():
    assert asyncapi.breaks(asyncapi.document(), asyncapi.document()) == []


def _tick_schema(document):
    return document["components"]["schemas"]["Tick"]


def _remove(document):
    del _tick_schema(document)["properties"]["iv"]


def _retype(document):
    _tick_schema(document)["properties"]["seq"] = {"type": "string"}


def _require(document):
    _tick_schema(document)["required"].append("bid")


def _lose_value(document):
    document["components"]["schemas"]["IvStatus"]["enum"].remove(IvStatus.OK)


def _lose_channel(document):
    del document["channels"]["/ws/ticks"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_remove, "Tick.iv is gone"),
        (_retype, "Tick.seq has another type"),
        (_require, "Tick.bid is newly required"),
        (_lose_value, "IvStatus lost the values ok"),
        (_lose_channel, "channel /ws/ticks is gone"),
    ],
)
def test_gate_names_a_breaking_change(change, words):
    changed = copy.deepcopy(asyncapi.document())
    change(changed)
    assert asyncapi.breaks(asyncapi.document(), changed) == [words]


def test_gate_lets_an_optional_field_in():
    changed = copy.deepcopy(asyncapi.document())
    _tick_schema(changed)["properties"]["new"] = {"type": "integer"}
    assert asyncapi.breaks(asyncapi.document(), changed) == []


@given(st.text(min_size=1))
def test_escaped_name_is_one_subject_token_and_comes_back(name):
    token = subjects.escape(name)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert subjects.unescape(token) == name


@given(st.text(min_size=1).filter(lambda s: s.isprintable()), st.dates())
def test_underlying_and_expiry_are_read_from_the_subjects_that_hold_them(name, day):
    for make in (subjects.forward, subjects.chain, subjects.vol_curve):
        assert subjects.expiry_of(make(name, day)) == (name, day)
    assert subjects.forward(name, day).startswith(subjects.forwards_of(name)[:-1])


@pytest.mark.parametrize("subject", ["", "md.tick.v1.NIFTY", "md.bar.v1.NIFTY.1s"])
def test_a_subject_without_an_expiry_is_refused(subject):
    with pytest.raises(ValueError, match=r"unpack|isoformat"):
        subjects.expiry_of(subject)


def test_ampersand_is_escaped_as_documented():
    assert subjects.escape("M&M") == "M_26M"
    assert subjects.tick("M&M") == "md.tick.v1.M_26M"


@pytest.mark.parametrize("token", ["_", "A_2", "_ZZ"])
def test_damaged_token_is_refused(token):
    with pytest.raises(ValueError, match=r"escape|literal"):
        subjects.unescape(token)


@given(st.text(min_size=1), st.integers(1, 64))
def test_shard_is_within_the_number_of_shards(underlying, shards):
    assert 0 <= subjects.shard_of(underlying, shards) < shards


def test_shard_equals_the_fnv_1a_of_the_server():
    # Published FNV-1a 32-bit test vectors.
    assert subjects.shard_of("a", 2**32) == 0xE40C292C
    assert subjects.shard_of("foobar", 2**32) == 0xBF9CF968


def test_no_two_streams_capture_the_same_subject():
    captured = [subject for spec in streams.STREAMS for subject in spec.subjects]
    assert len(captured) == len(set(captured))


@given(st.binary(max_size=200), st.sampled_from([codec.from_json, codec.from_msgpack]))
def test_bytes_that_are_no_message_say_what_is_wrong(data, decode):
    with pytest.raises(codec.DecodeError, match="not a valid AccountPlan"):
        decode(AccountPlan, data)


def test_missing_number_is_null_on_the_wire():
    raw = (EXAMPLES / "Tick.json").read_bytes()
    tick = msgspec.structs.replace(codec.from_json(Tick, raw), iv=float("nan"), delta=None)
    line = msgspec.json.decode(codec.to_json(tick))
    assert line["iv"] is None
    assert line["delta"] is None
