"""Rates out of two readings."""

import pytest

from services.fleet.domain.rates import headline, rates_per_second


def test_rate_is_growth_over_time():
    assert rates_per_second({"a_total": 10.0}, {"a_total": 30.0}, 2.0) == {"a_total": 10.0}


def test_counter_that_appeared_counts_from_zero():
    assert rates_per_second({}, {"a_total": 4.0}, 2.0) == {"a_total": 2.0}


def test_counter_of_a_restarted_process_counts_from_zero():
    assert rates_per_second({"a_total": 1000.0}, {"a_total": 6.0}, 2.0) == {"a_total": 3.0}


def test_two_readings_at_one_time_are_refused():
    with pytest.raises(ValueError, match="different times"):
        rates_per_second({}, {}, 0.0)


def test_headline_names_the_busiest_counters_first():
    rates = {
        "tickfleet_greeks_ticks_total": 5123.4,
        "tickfleet_greeks_frames_total": 2.25,
        "tickfleet_tasks_failed_total": 0.0,
        "tickfleet_bus_published_total": 300.0,
    }

    assert headline(rates, "greeks", most=2) == "ticks 5,123/s, bus published 300/s"
    assert headline(rates, "greeks").endswith("frames 2.2/s")
    assert headline({}, "greeks") == ""
