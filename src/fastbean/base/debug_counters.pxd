"""Counts live objects, and acquisitions of the GIL, in a debug build; compiles to nothing in any other build."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #ifdef FASTBEAN_DEBUG
    #define FASTBEAN_COUNTS_LIVE 1
    #else
    #define FASTBEAN_COUNTS_LIVE 0
    #endif
    """
    enum:
        FASTBEAN_COUNTS_LIVE

cdef enum Kind:
    LIVE_JOBS
    LIVE_LEAVES                     # of the job table
    LIVE_TUBES
    LIVE_CLIENTS
    LIVE_WATCHES
    LIVE_CONNECTIONS
    LIVE_BUFFERS                    # those that own memory
    LIVE_SEGMENTS                   # of a binlog
    LIVE_KINDS                      # the number of kinds

cdef int64_t[<int>LIVE_KINDS] live


cdef inline void live_born(Kind kind) noexcept nogil:
    if FASTBEAN_COUNTS_LIVE:
        live[<int>kind] += 1


cdef inline void live_gone(Kind kind) noexcept nogil:
    if FASTBEAN_COUNTS_LIVE:
        live[<int>kind] -= 1


cdef uint64_t[1] gil_acquisitions


cdef inline void gil_taken() noexcept nogil:
    """The loop has taken the interpreter's lock. To be called with the lock."""
    if FASTBEAN_COUNTS_LIVE:
        gil_acquisitions[0] += 1
