"""What one client, one user and all together may ask for."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.last_values import LastValues
from services.gateway.domain.limits import ConnectionQuota, MessageRate
from services.gateway.domain.ws_frames import tick_frame


def test_burst_of_twice_the_rate_passes_and_then_the_rate():
    rate = MessageRate(10, now_seconds=0.0)
    assert sum(rate.allows(0.0) for _ in range(100)) == 20
    assert sum(rate.allows(1.0) for _ in range(100)) == 10


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_never_more_than_rate_and_burst_pass(moments):
    rate = MessageRate(5, now_seconds=0.0)
    passed = sum(rate.allows(moment) for moment in sorted(moments))
    assert passed <= 10 + 5 * max(moments) + 1


def test_clock_that_steps_back_gives_nothing_away():
    rate = MessageRate(1, now_seconds=100.0)
    assert [rate.allows(at) for at in (100.0, 100.0, 50.0, 0.0)] == [True, True, False, False]


def test_full_process_takes_nobody_until_one_leaves():
    quota = ConnectionQuota(total_max=2, per_user_max=9)
    assert [quota.enter() for _ in range(3)] == [True, True, False]
    quota.leave()
    assert quota.enter()
    assert quota.total == 2


def test_places_of_one_user_are_not_those_of_another():
    quota = ConnectionQuota(total_max=9, per_user_max=1)
    assert quota.admit("a")
    assert not quota.admit("a")
    assert quota.admit("b")
    quota.dismiss("a")
    assert quota.admit("a")


def test_last_values_give_up_the_oldest_instrument_beyond_the_bound():
    values = LastValues(2)
    for token in (1, 2, 1, 3):
        values.put(token, b"frame")
    assert list(values.frames) == [2, 3]
    assert values.evicted == 1


def test_stored_tick_never_replaces_a_newer_live_one():
    def frame(greeks_ts: int) -> bytes:
        return tick_frame(b'{"instrument_token":1,"greeks_ts":%d,"source":"sim"}' % greeks_ts)

    values = LastValues(10)
    assert values.put_if_newer(1, frame(100))
    assert not values.put_if_newer(1, frame(99))
    assert not values.put_if_newer(1, frame(100))
    assert values.put_if_newer(1, frame(101))
    assert values.frames[1] == frame(101)


def test_forgotten_last_value_is_gone_and_an_unknown_one_is_no_error():
    values = LastValues(10)
    values.put(7, b"frame")
    values.forget(7)
    values.forget(8)
    assert len(values) == 0
