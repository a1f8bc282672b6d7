"""A batch: records that become safe together, and where segments begin between them.

The writer appends to the open batch. A sink takes it as a whole, and keeps it until its records are safe.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from fastbean.base.buffer cimport buffer_free

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef int batch_reserve_cut(Batch *batch) noexcept nogil:
    """Make room for another cut. Returns 0, or -1 without memory."""
    cdef uint32_t cap = batch.cuts_cap * 2 if batch.cuts_cap else 4
    cdef Cut *cuts
    if batch.cuts_count < batch.cuts_cap:
        return 0
    cuts = <Cut *>realloc(batch.cuts, cap * sizeof(Cut))
    if cuts is NULL:
        return -1
    batch.cuts = cuts
    batch.cuts_cap = cap
    return 0


cdef int batch_cut(Batch *batch, Cut *cut) noexcept nogil:
    """A segment begins at the present end of the batch. Returns 0, or -1 without memory."""
    if batch_reserve_cut(batch) < 0:
        return -1
    cut.place = batch.bytes.len
    batch.cuts[batch.cuts_count] = cut[0]
    batch.cuts_count += 1
    return 0


cdef void batch_swap(Batch *batch, Batch *other) noexcept nogil:
    cdef Batch kept = batch[0]
    batch[0] = other[0]
    other[0] = kept


cdef void batch_clear(Batch *batch, uint64_t first_lsn) noexcept nogil:
    """Make it empty; the next record has this LSN. Its memory stays."""
    batch.first_lsn = first_lsn
    batch.bytes.len = 0
    batch.cuts_count = 0


cdef void batch_free(Batch *batch) noexcept nogil:
    """Free its memory, and close the files that it would have begun."""
    cdef uint32_t place
    for place in range(batch.cuts_count):
        if batch.cuts[place].fd >= 0:
            close(batch.cuts[place].fd)
    batch.cuts_count = 0
    batch.cuts_cap = 0
    free(batch.cuts)
    batch.cuts = NULL
    buffer_free(&batch.bytes)
