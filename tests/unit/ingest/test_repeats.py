"""Texts that every connection carries are forwarded once."""

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.repeats import Repeats, digest_of

events = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 30)), max_size=120)


@given(events, st.integers(1, 8), st.floats(0.5, 20))
def test_repeat_is_what_came_within_the_window_and_is_not_crowded_out(steps, capacity, window):
    repeats = Repeats(capacity=capacity, window_seconds=window)
    now = 0.0
    model: list[tuple[float, int]] = []
    for pause, content in steps:
        now += pause
        model = [(at, known) for at, known in model if now - at < window]
        expected = content in [known for _, known in model]
        if not expected:
            model = [*model, (now, content)][-capacity:]
        assert repeats.is_repeat(content.to_bytes(2, "big"), now) is expected
        assert len(repeats) <= capacity


@given(
    st.lists(st.integers(0, 1_000_000), min_size=1, max_size=40, unique=True),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_every_text_is_new_exactly_once_however_connections_interleave(texts, connections, random):
    queues = [list(texts) for _ in range(connections)]
    repeats = Repeats()
    fresh = []
    while any(queues):
        queue = random.choice([queue for queue in queues if queue])
        text = queue.pop(0)
        if not repeats.is_repeat(digest_of("order", str(text).encode()), 1.0):
            fresh.append(text)
    assert sorted(fresh) == sorted(texts)


def test_later_update_of_the_same_order_is_no_repeat():
    repeats = Repeats()
    opened = b'{"order_id": "1", "status": "OPEN", "filled_quantity": 0}'
    filled = b'{"order_id": "1", "status": "COMPLETE", "filled_quantity": 75}'
    assert not repeats.is_repeat(digest_of("order", opened), 0)
    assert not repeats.is_repeat(digest_of("order", filled), 0)
    assert repeats.is_repeat(digest_of("order", opened), 0)


def test_order_of_keys_and_spaces_make_no_difference_but_the_type_does():
    one = digest_of("order", b'{"a": 1, "b": [1, 2.5, null]}')
    assert digest_of("order", b'{"b":[1,2.5,null],"a":1}') == one
    assert digest_of("message", b'{"a": 1, "b": [1, 2.5, null]}') != one
    assert digest_of("order", b'{"a": 1, "b": [2.5, 1, null]}') != one
