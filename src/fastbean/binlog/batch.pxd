"""A batch: records that become safe together, and where segments begin between them."""

from libc.stdint cimport uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer

cdef struct Cut:                    # a segment begins within a batch
    size_t place                    # offset in the batch's bytes
    uint32_t segment                # its number
    int fd                          # its file, -1 if it has none
    uint64_t id_limit               # for the header of the file, see docs/binlog.md; this and the next one
    uint64_t floor

cdef struct Batch:                  # all zero bytes = an empty batch
    uint64_t first_lsn
    Buffer bytes                    # whole records; an LSN counts their bytes
    Cut *cuts
    uint32_t cuts_count
    uint32_t cuts_cap

cdef inline bint batch_is_empty(Batch *batch) noexcept nogil:
    return batch.bytes.len == 0 and batch.cuts_count == 0

cdef inline uint64_t batch_end(Batch *batch) noexcept nogil:
    """The LSN after its last record."""
    return batch.first_lsn + batch.bytes.len

cdef int batch_reserve_cut(Batch *batch) noexcept nogil
cdef int batch_cut(Batch *batch, Cut *cut) noexcept nogil
cdef void batch_swap(Batch *batch, Batch *other) noexcept nogil
cdef void batch_clear(Batch *batch, uint64_t first_lsn) noexcept nogil
cdef void batch_free(Batch *batch) noexcept nogil
