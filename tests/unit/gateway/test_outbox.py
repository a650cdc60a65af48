"""The outbox keeps the newest tick per instrument, is bounded, and knows what it replaced."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.outbox import Outbox


def offer(outbox: Outbox, token: int, frame: bytes) -> None:
    outbox[token] = frame
    outbox.offered += 1


def test_newer_tick_replaces_the_older_and_is_counted():
    outbox = Outbox()
    for frame in (b"1", b"2", b"3"):
        offer(outbox, 7, frame)
    assert outbox.take(10) == ([b"3"], 2)
    assert outbox.take(10) == ([], 0)


def test_oldest_change_is_taken_first_and_the_rest_stays():
    outbox = Outbox()
    for token in (3, 1, 2):
        offer(outbox, token, b"%d" % token)
    assert outbox.take(2) == ([b"3", b"1"], 0)
    offer(outbox, 2, b"new")
    assert outbox.take(2) == ([b"new"], 1)


def test_nothing_follows_for_a_forgotten_instrument():
    outbox = Outbox()
    offer(outbox, 1, b"a")
    offer(outbox, 2, b"b")
    outbox.forget(1)
    outbox.forget(99)
    assert outbox.take(10) == ([b"b"], 0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("offer"), st.integers(0, 9)),
            st.tuples(st.just("take"), st.integers(1, 5)),
        )
    )
)
def test_every_tick_is_sent_or_replaced_or_waits(steps):
    outbox = Outbox()
    offered = taken = replaced = 0
    for step, number in steps:
        if step == "offer":
            offer(outbox, number, b"%d" % offered)
            offered += 1
        else:
            frames, conflated = outbox.take(number)
            assert len(frames) <= number
            taken += len(frames)
            replaced += conflated
        assert len(outbox) <= 10
    waiting_replaced = outbox.offered - len(outbox)
    assert offered == taken + replaced + len(outbox) + waiting_replaced
