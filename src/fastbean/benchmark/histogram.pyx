"""Counts durations for quantiles: in buckets whose width grows with the value, as HdrHistogram does.

A value below 2048 ns has a bucket of its own; above that, a bucket is at most 1/1024 of its lowest value wide. So a
quantile is at most a thousandth too high, and never too low. Recording costs a few nanoseconds; a histogram takes about
250 KiB, however many values it has. Invariant: the sum of all buckets is `total`.
"""

from libc.stdint cimport uint64_t

__all__ = ["RELATIVE_ERROR", "Histogram"]

RELATIVE_ERROR = 1.0 / (1 << FINE_BITS)


cdef uint64_t bucket_top(size_t bucket) noexcept nogil:
    """The highest value that falls into the bucket."""
    cdef size_t shift
    if bucket >> (FINE_BITS + 1) == 0:
        return bucket
    shift = (bucket >> FINE_BITS) - 1
    return (((bucket - (shift << FINE_BITS)) + 1) << shift) - 1


cdef class Histogram:
    """Durations in nanoseconds. The count, the mean and the highest value are exact."""

    def record(self, value_ns: int, times: int = 1) -> None:
        """Count a duration of value_ns >= 0 nanoseconds, `times` >= 0 times.

        Raises OverflowError for a negative number or one of more than 64 bits.
        """
        count_values(&self.counts, value_ns, times)

    def add(self, other: Histogram) -> None:
        """Add everything that another histogram has counted."""
        cdef size_t bucket
        for bucket in range(<size_t>BUCKETS):
            self.counts.buckets[bucket] += other.counts.buckets[bucket]
        self.counts.total += other.counts.total
        self.counts.sum_ns += other.counts.sum_ns
        self.counts.max_ns = max(self.counts.max_ns, other.counts.max_ns)

    def quantile_ns(self, fraction: float) -> int:
        """The duration, in nanoseconds, that a `fraction` (0 to 1) of all do not exceed; 0 when none was recorded.

        Raises ValueError for a fraction outside 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a quantile's fraction must be between 0 and 1, not {fraction}")
        cdef uint64_t seen = 0
        cdef double wanted = max(<double>fraction * self.counts.total, 1.0)
        cdef size_t bucket
        for bucket in range(<size_t>BUCKETS - 1):
            seen += self.counts.buckets[bucket]
            if seen >= wanted:
                return min(bucket_top(bucket), self.counts.max_ns)
        return self.counts.max_ns

    @property
    def count(self) -> int:
        """The number of durations recorded."""
        return self.counts.total

    @property
    def max_ns(self) -> int:
        """The longest duration; 0 when none was recorded."""
        return self.counts.max_ns

    @property
    def mean_ns(self) -> float:
        """The mean duration; 0 when none was recorded."""
        return <double>self.counts.sum_ns / self.counts.total if self.counts.total else 0.0
