"""Shared by the fuzz targets: checks that report a fault, and the simplest way to find lines."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdlib.h>

    /* abort: the fuzzer then keeps the input, and so does a core dump. */
    static void fuzz_fail(const char *what, unsigned long long is, unsigned long long should_be) {
        fprintf(stderr, "\\nFUZZ: %s: %llu, expected %llu\\n", what, is, should_be);
        abort();
    }
    static void fuzz_equal(const char *what, unsigned long long is, unsigned long long should_be) {
        if (is != should_be)
            fuzz_fail(what, is, should_be);
    }
    static void fuzz_at_most(const char *what, unsigned long long is, unsigned long long most) {
        if (is > most)
            fuzz_fail(what, is, most);
    }
    """
    void equal "fuzz_equal"(const char *what, unsigned long long is_, unsigned long long should_be) noexcept nogil
    void at_most "fuzz_at_most"(const char *what, unsigned long long is_, unsigned long long most) noexcept nogil

ctypedef int (*Target)(const uint8_t *data, size_t size) noexcept


cdef inline size_t line_end(const char *data, size_t size) noexcept nogil:
    """The number of bytes up to and including the first CRLF; 0 if there is none."""
    cdef size_t at
    for at in range(1, size):
        if data[at - 1] == c'\r' and data[at] == c'\n':
            return at + 1
    return 0


cdef inline object as_capsule(Target target):
    """The target, for `driver.fuzz`."""
    return PyCapsule_New(<void *>target, b"target", NULL)
