"""The tube, and the set of all tubes.

A tube is found by its name in O(1), has a number that stays its own while it exists, and a place in the visible list.
A tube leaves that list by moving the last one into its place, which is the order that beanstalkd's clients see. The
engine decides when a tube is freed; this module only does it.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from fastbean._core cimport heap_free
from fastbean.base.debug_counters cimport LIVE_TUBES, live_born, live_gone
from fastbean.base.hash_table cimport hash_bytes, table_first, table_free, table_insert, table_next, table_remove

cdef enum:
    SMALLEST_CAP = 16


cdef inline Tube *find(TubeSet *tubes, uint64_t hash, const char *name, uint32_t name_bytes) noexcept nogil:
    cdef Tube *tube = <Tube *>table_first(&tubes.names, hash)
    while tube is not NULL and not tube_has_name(tube, name, name_bytes):
        tube = <Tube *>table_next(&tube.entry)
    if tube is not NULL:
        tubes.last = tube
    return tube


cdef Tube *tube_find(TubeSet *tubes, const char *name, uint32_t name_bytes) noexcept nogil:
    """The tube of this name, or NULL."""
    cdef Tube *tube = tube_again(tubes, name, name_bytes)
    if tube is NULL:
        tube = find(tubes, hash_bytes(&tubes.key, name, name_bytes), name, name_bytes)
    return tube


cdef int grow(TubeSet *tubes) noexcept nogil:
    """Make room for one more tube in all three arrays. Returns 0, or -1 without memory (the set is unchanged)."""
    cdef uint32_t cap = tubes.cap * 2 if tubes.cap else SMALLEST_CAP
    cdef void *array
    if tubes.count < tubes.cap:
        return 0
    array = realloc(tubes.by_number, cap * sizeof(Tube *))
    if array is NULL:
        return -1
    tubes.by_number = <Tube **>array
    array = realloc(tubes.listed, cap * sizeof(Tube *))
    if array is NULL:
        return -1
    tubes.listed = <Tube **>array
    array = realloc(tubes.free_numbers, cap * sizeof(uint32_t))
    if array is NULL:
        return -1
    tubes.free_numbers = <uint32_t *>array
    tubes.cap = cap
    return 0


cdef Tube *tube_find_or_make(TubeSet *tubes, const char *name, uint32_t name_bytes) noexcept nogil:
    """The tube of this name, made if needed; NULL without memory (nothing changed)."""
    cdef uint64_t hash = hash_bytes(&tubes.key, name, name_bytes)
    cdef Tube *tube = find(tubes, hash, name, name_bytes)
    if tube is not NULL:
        return tube
    if grow(tubes) < 0:
        return NULL
    tube = <Tube *>calloc(1, sizeof(Tube) + name_bytes + 1)
    if tube is NULL:
        return NULL
    if table_insert(&tubes.names, &tube.entry, hash) < 0:
        free(tube)
        return NULL
    live_born(LIVE_TUBES)
    memcpy(tube_name(tube), name, name_bytes)
    tube.name_bytes = name_bytes
    tubes.names_bytes += name_bytes
    tubes.births += 1
    tube.birth = tubes.births
    if tubes.free_count:
        tubes.free_count -= 1
        tube.number = tubes.free_numbers[tubes.free_count]
    else:
        tube.number = tubes.numbers
        tubes.numbers += 1
    tubes.by_number[tube.number] = tube
    tube.place = tubes.count
    tubes.listed[tube.place] = tube
    tubes.count += 1
    return tube


cdef void tube_remove(TubeSet *tubes, Tube *tube) noexcept nogil:
    """Free a tube that nothing refers to; the last of the visible list moves into its place."""
    cdef Tube *last
    table_remove(&tubes.names, &tube.entry)
    tubes.by_number[tube.number] = NULL
    if tubes.last == tube:
        tubes.last = NULL
    tubes.free_numbers[tubes.free_count] = tube.number
    tubes.free_count += 1
    tubes.count -= 1
    tubes.names_bytes -= tube.name_bytes
    last = tubes.listed[tubes.count]
    tubes.listed[tube.place] = last
    last.place = tube.place
    free_tube(tube)


cdef void free_tube(Tube *tube) noexcept nogil:
    heap_free(&tube.ready)
    heap_free(&tube.delayed)
    heap_free(&tube.buried)
    live_gone(LIVE_TUBES)
    free(tube)


cdef void tube_set_free(TubeSet *tubes) noexcept nogil:
    """Free every tube and the set; jobs are the engine's."""
    cdef uint32_t place
    for place in range(tubes.count):
        free_tube(tubes.listed[place])
    free(tubes.by_number)
    free(tubes.listed)
    free(tubes.free_numbers)
    table_free(&tubes.names)
    tubes.count = 0


cdef void waiting_line_join(Tube *tube, Watch *watch) noexcept nogil:
    """The client of `watch` begins to wait: append it to the tube's queue."""
    watch.earlier = tube.latest_waiting
    watch.later = NULL
    if tube.latest_waiting is NULL:
        tube.longest_waiting = watch
    else:
        tube.latest_waiting.later = watch
    tube.latest_waiting = watch
    tube.waiting += 1


cdef void waiting_line_leave(Tube *tube, Watch *watch) noexcept nogil:
    """The client of `watch` stops waiting."""
    if watch.earlier is NULL:
        tube.longest_waiting = watch.later
    else:
        watch.earlier.later = watch.later
    if watch.later is NULL:
        tube.latest_waiting = watch.earlier
    else:
        watch.later.earlier = watch.earlier
    tube.waiting -= 1


cdef void tube_keep_settings(TubeSet *tubes, Tube *tube, uint32_t segment) noexcept nogil:
    """The newest record of the tube's settings is in `segment`; 0: none has to be kept."""
    if tube.segment:
        if tube.earlier_settings is NULL:
            tubes.oldest_settings = tube.later_settings
        else:
            tube.earlier_settings.later_settings = tube.later_settings
        if tube.later_settings is NULL:
            tubes.latest_settings = tube.earlier_settings
        else:
            tube.later_settings.earlier_settings = tube.earlier_settings
    tube.segment = segment
    if segment == 0:
        return
    tube.earlier_settings = tubes.latest_settings
    tube.later_settings = NULL
    if tubes.latest_settings is NULL:
        tubes.oldest_settings = tube
    else:
        tubes.latest_settings.later_settings = tube
    tubes.latest_settings = tube
