"""Counts live objects, and acquisitions of the GIL, in a debug build; compiles to nothing in any other build.

The code that allocates a job, a tube, a client and the like counts it, and so does the code that frees it. Once every
server of a process has ended, each count is zero: the tests check that after every test, and a process that exits
normally prints what is left to stderr. The event loops count how often they take the GIL.
Without the macro FASTBEAN_DEBUG the functions are empty and cost nothing.
"""

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdlib.h>

    static const int64_t *fastbean_left;
    static const char *const *fastbean_names;
    static int fastbean_kinds;

    static void fastbean_print_what_is_left(void) {
        int kind;
        for (kind = 0; kind < fastbean_kinds; kind++)
            if (fastbean_left[kind])
                fprintf(stderr, "fastbean: left alive: %s=%lld\\n", fastbean_names[kind],
                        (long long)fastbean_left[kind]);
    }

    static void fastbean_check_at_exit(const int64_t *live, const char *const *names, int kinds) {
        fastbean_left = live;
        fastbean_names = names;
        fastbean_kinds = kinds;
        atexit(fastbean_print_what_is_left);
    }
    """
    void fastbean_check_at_exit(const int64_t *live, const char **names, int kinds)

cdef const char *names[<int>LIVE_KINDS]
names[:] = ["jobs", "leaves", "tubes", "clients", "watches", "connections", "buffers", "segments"]
if FASTBEAN_COUNTS_LIVE:
    fastbean_check_at_exit(live, names, LIVE_KINDS)


def counts() -> dict[str, int] | None:
    """The number of live objects by kind, or None if this build does not count them; for tests."""
    cdef int kind
    if not FASTBEAN_COUNTS_LIVE:
        return None
    return {names[kind].decode(): live[kind] for kind in range(LIVE_KINDS)}


def acquisitions_of_the_gil() -> int | None:
    """How often the event loops of this process have taken the GIL, or None if this build does not count it."""
    return gil_acquisitions[0] if FASTBEAN_COUNTS_LIVE else None
