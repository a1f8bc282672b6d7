"""The struct of a histogram, so that the compiled modules can record into it without the interpreter lock."""

from libc.stdint cimport uint64_t

cdef enum:
    # A bucket is at most 1/1024 of its value wide; values of 2**40 ns (18 minutes) and more share the last one.
    FINE_BITS = 10
    MAX_BITS = 40
    BUCKETS = (MAX_BITS - FINE_BITS + 1) << FINE_BITS

cdef extern from *:
    int __builtin_clzll(unsigned long long value) nogil

cdef struct Counts:
    uint64_t total
    uint64_t sum_ns
    uint64_t max_ns
    uint64_t buckets[BUCKETS]


cdef inline size_t bucket_of(uint64_t value_ns) noexcept nogil:
    cdef size_t shift
    if value_ns >> MAX_BITS:
        return BUCKETS - 1
    if value_ns >> (FINE_BITS + 1) == 0:
        return value_ns
    shift = 63 - FINE_BITS - __builtin_clzll(value_ns)
    return (shift << FINE_BITS) + (value_ns >> shift)


cdef inline void count_values(Counts *counts, uint64_t value_ns, uint64_t times) noexcept nogil:
    counts.buckets[bucket_of(value_ns)] += times
    counts.total += times
    counts.sum_ns += value_ns * times
    if value_ns > counts.max_ns:
        counts.max_ns = value_ns


cdef class Histogram:
    cdef Counts counts
