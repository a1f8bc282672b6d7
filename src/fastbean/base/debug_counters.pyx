"""How many objects of each kind are alive, in a debug build; nothing at all in any other.

Whoever allocates a job, a tube, a client and the like says so, and says when it is freed. Once every server of a
process is gone, each count is zero: the tests look after every one of them, and a process that ends in peace says on
stderr what it has left. In a build without the macro FASTBEAN_DEBUG the functions are empty, and cost nothing.
"""

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdlib.h>

    static const int64_t *fastbean_left;
    static const char *const *fastbean_names;
    static int fastbean_kinds;

    static void fastbean_say_what_is_left(void) {
        int kind;
        for (kind = 0; kind < fastbean_kinds; kind++)
            if (fastbean_left[kind])
                fprintf(stderr, "fastbean: left alive: %s=%lld\\n", fastbean_names[kind],
                        (long long)fastbean_left[kind]);
    }

    static void fastbean_look_at_the_end(const int64_t *live, const char *const *names, int kinds) {
        fastbean_left = live;
        fastbean_names = names;
        fastbean_kinds = kinds;
        atexit(fastbean_say_what_is_left);
    }
    """
    void fastbean_look_at_the_end(const int64_t *live, const char **names, int kinds)

cdef const char *names[<int>LIVE_KINDS]
names[:] = ["jobs", "leaves", "tubes", "clients", "watches", "connections", "buffers", "segments"]
if FASTBEAN_COUNTS_LIVE:
    fastbean_look_at_the_end(live, names, LIVE_KINDS)


def counts() -> dict[str, int] | None:
    """The number of objects alive by kind, or None if this build does not count them; for tests."""
    cdef int kind
    if not FASTBEAN_COUNTS_LIVE:
        return None
    return {names[kind].decode(): live[kind] for kind in range(LIVE_KINDS)}
