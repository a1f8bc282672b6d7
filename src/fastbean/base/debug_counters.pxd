"""How many objects of each kind are alive, in a debug build; nothing at all in any other."""

from libc.stdint cimport int64_t

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
    LIVE_LEAVES                     # of the table of jobs
    LIVE_TUBES
    LIVE_CLIENTS
    LIVE_WATCHES
    LIVE_CONNECTIONS
    LIVE_BUFFERS                    # that own memory
    LIVE_SEGMENTS                   # of a log
    LIVE_KINDS                      # how many there are

cdef int64_t[<int>LIVE_KINDS] live


cdef inline void live_born(Kind kind) noexcept nogil:
    if FASTBEAN_COUNTS_LIVE:
        live[<int>kind] += 1


cdef inline void live_gone(Kind kind) noexcept nogil:
    if FASTBEAN_COUNTS_LIVE:
        live[<int>kind] -= 1
