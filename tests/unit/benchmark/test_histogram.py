"""The load tool's histogram, beside a sorted list."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbean.benchmark.histogram import RELATIVE_ERROR, Histogram

# Durations of every magnitude, up to where the buckets end.
DURATIONS = st.integers(0, 40).flatmap(lambda bits: st.integers(0, (1 << bits) - 1))
FRACTIONS = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]), st.floats(0, 1))


def histogram_of(values):
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact_quantile(values, fraction):
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


@given(values=st.lists(DURATIONS, min_size=1, max_size=200), fraction=FRACTIONS)
def test_a_quantile_is_at_most_a_thousandth_too_high_and_never_too_low(values, fraction):
    exact = exact_quantile(values, fraction)
    assert exact <= histogram_of(values).quantile_ns(fraction) <= exact * (1 + RELATIVE_ERROR)


@given(values=st.lists(st.integers(0, 2047), min_size=1, max_size=200), fraction=FRACTIONS)
def test_the_shortest_are_exact(values, fraction):
    assert histogram_of(values).quantile_ns(fraction) == exact_quantile(values, fraction)


@given(values=st.lists(DURATIONS, max_size=200))
def test_count_mean_and_highest_are_exact(values):
    histogram = histogram_of(values)
    assert histogram.count == len(values)
    assert histogram.max_ns == max(values, default=0)
    assert histogram.mean_ns == pytest.approx(sum(values) / len(values) if values else 0)


@given(st.lists(DURATIONS, max_size=100), st.lists(DURATIONS, max_size=100), FRACTIONS)
def test_adding_is_recording_both(some, others, fraction):
    histogram = histogram_of(some)
    histogram.add(histogram_of(others))
    both = histogram_of(some + others)
    for name in ("count", "max_ns", "mean_ns"):
        assert getattr(histogram, name) == getattr(both, name)
    assert histogram.quantile_ns(fraction) == both.quantile_ns(fraction)


def test_the_error_is_told():
    assert RELATIVE_ERROR <= 0.001


@pytest.mark.parametrize("power", range(64))
def test_every_power_of_two_has_a_bucket(power):
    histogram = histogram_of([(1 << power) - 1, 1 << power])
    assert histogram.quantile_ns(1.0) == histogram.max_ns == 1 << power
    if power <= 40:
        assert (1 << power) - 1 <= histogram.quantile_ns(0.5) <= 1 << power


def test_a_duration_is_counted_several_times():
    histogram = Histogram()
    histogram.record(10, 99)
    histogram.record(1000)
    assert [histogram.quantile_ns(fraction) for fraction in (0.5, 0.99, 1.0)] == [10, 10, 1000]


def test_an_empty_histogram_and_wrong_values():
    histogram = Histogram()
    assert (histogram.count, histogram.max_ns, histogram.mean_ns, histogram.quantile_ns(0.5)) == (0, 0, 0.0, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        histogram.quantile_ns(1.5)
    with pytest.raises(OverflowError):
        histogram.record(-1)
    assert histogram.count == 0
