"""Memory for the objects that may exist in millions: jobs, and the leaves of the job table."""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free

cdef extern from *:
    """
    #ifdef FASTBEAN_DEBUG
    #define FASTBEAN_MOST_IN_SLOTS 0
    #else
    #define FASTBEAN_MOST_IN_SLOTS 1024
    #endif
    """
    enum:
        FASTBEAN_MOST_IN_SLOTS      # slab_new uses a slot up to this size, in bytes
    int __builtin_ctzll(unsigned long long bits) nogil

cdef enum:
    CHUNK_BYTES = 65536             # also the alignment of a chunk
    CHUNK_WORDS = 16
    SLOT_STEP_BYTES = 8
    LEAST_SLOT_BYTES = 64           # a chunk has 64 * CHUNK_WORDS slots at most
    MOST_SLOT_BYTES = 1024
    SLOT_SIZES = 129                # MOST_SLOT_BYTES // SLOT_STEP_BYTES + 1

cdef struct Slab

cdef struct Chunk:                  # its slots follow
    Slab *slab
    Chunk *next                     # of the same size and with room, or the next spare one
    Chunk *previous
    uint32_t word                   # index of the first word of `free` with a bit set; CHUNK_WORDS when none is free
    uint32_t used
    uint32_t slots
    uint32_t slot_bytes
    uint64_t reciprocal             # 2**32 / slot_bytes, rounded up: for the offset of a slot the division is exact
    uint64_t free[CHUNK_WORDS]      # one bit for each slot

cdef struct Slab:                   # all zero bytes = an empty one
    Chunk *roomy[SLOT_SIZES]        # chunks with room, by slot_bytes // SLOT_STEP_BYTES; the first is filled first
    Chunk *spare                    # chunks without a slot in use, for whichever size needs one next
    uint32_t spares
    uint32_t chunks                 # all of them
    uint32_t sweep_at               # with this many chunks, look for free pages
    bint many                       # between slab_expect_many and slab_expect_no_more

cdef Chunk *slab_more(Slab *slab, uint32_t slot_bytes) noexcept nogil
cdef void chunk_next_word(Chunk *chunk) noexcept nogil
cdef void chunk_has_room(Chunk *chunk) noexcept nogil
cdef void chunk_is_empty(Chunk *chunk) noexcept nogil
cdef void *slab_large(Slab *slab, size_t size) noexcept nogil
cdef void slab_sweep(Slab *slab) noexcept nogil
cdef void slab_release_to_os(Slab *slab) noexcept nogil
cdef void slab_end(Slab *slab) noexcept nogil
cdef void slab_expect_many(Slab *slab) noexcept nogil
cdef void slab_expect_no_more(Slab *slab) noexcept nogil
cdef void own_heap() noexcept nogil


cdef inline void *slot_take(Slab *slab, uint32_t size) noexcept nogil:
    """A slot of `size` bytes, LEAST_SLOT_BYTES to MOST_SLOT_BYTES, uninitialised; NULL without memory."""
    cdef uint32_t number = (size + SLOT_STEP_BYTES - 1) // SLOT_STEP_BYTES
    cdef Chunk *chunk = slab.roomy[number]
    cdef uint32_t word
    cdef uint64_t bits
    cdef uint32_t place
    if chunk is NULL:
        chunk = slab_more(slab, number * SLOT_STEP_BYTES)
        if chunk is NULL:
            return NULL
    word = chunk.word
    bits = chunk.free[word]
    place = word * 64 + <uint32_t>__builtin_ctzll(bits)
    bits &= bits - 1
    chunk.free[word] = bits
    chunk.used += 1
    if bits == 0:
        chunk_next_word(chunk)
    return <char *>chunk + sizeof(Chunk) + place * chunk.slot_bytes


cdef inline Chunk *chunk_of(void *slot) noexcept nogil:
    return <Chunk *>(<uintptr_t>slot & ~<uintptr_t>(CHUNK_BYTES - 1))


cdef inline void slot_free(void *slot) noexcept nogil:
    """Free a slot; its address leads to its slab."""
    cdef Chunk *chunk = chunk_of(slot)
    cdef uint64_t offset = <uint64_t>(<char *>slot - <char *>chunk) - sizeof(Chunk)
    cdef uint64_t place = (offset * chunk.reciprocal) >> 32
    cdef uint32_t word = <uint32_t>(place // 64)
    chunk.free[word] |= <uint64_t>1 << (place % 64)
    if word < chunk.word:
        if chunk.word == CHUNK_WORDS:
            chunk_has_room(chunk)
        chunk.word = word
    chunk.used -= 1
    if chunk.used == 0:
        chunk_is_empty(chunk)


cdef inline void slab_each_iteration(Slab *slab) noexcept nogil:
    """Call it at least once per iteration. Free slots of one size cannot serve another: once the number of chunks has
    grown by a quarter, release the pages that hold only free slots."""
    if slab.chunks >= slab.sweep_at:
        slab_sweep(slab)


cdef inline void *slab_new(Slab *slab, size_t size) noexcept nogil:
    """`size` bytes, at least LEAST_SLOT_BYTES, uninitialised; NULL without memory (nothing changed)."""
    if size <= FASTBEAN_MOST_IN_SLOTS:
        return slot_take(slab, <uint32_t>size)
    return slab_large(slab, size)


cdef inline void slab_drop(void *memory, size_t size) noexcept nogil:
    """Free memory that `slab_new` returned for this `size`."""
    if size <= FASTBEAN_MOST_IN_SLOTS:
        slot_free(memory)
    else:
        free(memory)
