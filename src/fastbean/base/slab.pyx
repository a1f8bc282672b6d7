"""Memory for the objects that may exist in millions: jobs, and the leaves of the job table.

Small objects are in slots. A chunk is 64 KiB of the C library's heap, cut into slots of one size, a multiple of eight
bytes. A slot has no header, and taking or freeing one costs about twenty instructions and no lock, a tenth of what the
C library needs; that one manages only chunks and large jobs. The address of a slot alone tells its place in its chunk.
Larger objects come from the C library directly; the caller passes the size when it frees one, and that size says which
of the two it was.

Each server has its own slab. It has no lock, because one thread at a time uses it. All slots must be freed before it.

In a debug build `slab_new` takes everything from the C library, so that a sanitizer sees each object freed.

Invariants:

- A chunk with room is in the list of its size, a full chunk is in none; a spare chunk has no slot in use.
- Pages in which no slot was ever taken are neither read nor written: a chunk costs only the memory that is used.
- A chunk without a slot in use is either the only chunk of its size with room, or spare, for whichever size needs one
  next. It is kept, because glibc does not reuse a gap of one chunk for an aligned chunk. `slab_release_to_os` frees all
  such chunks, and releases the pages of the others that hold only free slots. `slab_each_iteration` does the latter
  whenever the number of chunks has grown by a quarter, since the free slots of one size are no use to another.
"""

cimport cython
from libc.stdlib cimport malloc
from libc.string cimport memset


cdef extern from *:
    """
    #include <stdlib.h>
    /* The C library's heap belongs to the whole process. Only in one that is all a server's, as the daemon is, is it
       set up for a server, trimmed, and given large pages; elsewhere these functions do nothing. */
    static int fastbean_owns_heap;
    static int fastbean_heap_is_owned(void) { return fastbean_owns_heap; }

    #if defined(__GLIBC__) && defined(__linux__)
    #include <limits.h>
    #include <malloc.h>
    #include <sys/mman.h>
    #include <unistd.h>

    static char *fastbean_heap_end;

    /* Memory from mmap would go back at once: glibc raises that threshold by itself only as long as none is set. */
    static void fastbean_own_heap(void) {
        fastbean_owns_heap = 1;
        mallopt(M_TRIM_THRESHOLD, INT_MAX);
        mallopt(M_MMAP_THRESHOLD, 4 << 20);
    }

    static void fastbean_trim(void) {
        if (fastbean_owns_heap)
            malloc_trim(0);
    }

    /* The heap grows by so much at once. */
    static void fastbean_grow_by(int bytes) {
        if (!fastbean_owns_heap)
            return;
        mallopt(M_TOP_PAD, bytes);
        fastbean_heap_end = sbrk(0);
    }

    static void fastbean_use_large_pages(const void *newest) {
        char *end;
        if (!fastbean_owns_heap || (const char *)newest < fastbean_heap_end)
            return;
        end = sbrk(0);
        if (end > fastbean_heap_end)
            madvise(fastbean_heap_end, end - fastbean_heap_end, MADV_HUGEPAGE);
        fastbean_heap_end = end;
    }
    #else
    static void fastbean_own_heap(void) { fastbean_owns_heap = 1; }
    static void fastbean_trim(void) {}
    static void fastbean_grow_by(int bytes) { (void)bytes; }
    static void fastbean_use_large_pages(const void *newest) { (void)newest; }
    #endif

    #ifdef __linux__
    #include <sys/mman.h>
    #include <unistd.h>
    static size_t fastbean_page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }
    static void fastbean_drop_pages(void *first, size_t size) { madvise(first, size, MADV_DONTNEED); }
    #else
    /* Elsewhere this advice may do something else to memory that is used again. */
    static size_t fastbean_page_bytes(void) { return (size_t)-1; }
    static void fastbean_drop_pages(void *first, size_t size) { (void)first; (void)size; }
    #endif
    """
    bint fastbean_heap_is_owned() nogil
    void fastbean_trim() nogil
    void fastbean_own_heap() nogil
    void fastbean_grow_by(int bytes) nogil
    void fastbean_use_large_pages(const void *newest) nogil
    size_t fastbean_page_bytes() nogil
    void fastbean_drop_pages(void *first, size_t size) nogil

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)

# glibc takes blocks of 128 KiB and more from mmap, and posix_memalign asks for size + alignment + its own header:
# 65,464 + 65,536 stays below. A chunk from mmap would cost two system calls and a page fault for each of its pages.
# Sweeping looks at each page of each chunk with room; below 8 MiB of growth the pages it could
# release are not worth that.
cdef enum:
    RESTORE_STEP_BYTES = 33554432   # the step by which the heap grows while a large binlog is read
    USUAL_STEP_BYTES = 131072       # glibc's default
    ASKED_BYTES = 65464             # of a chunk; see above
    SWEEP_LEAST_CHUNKS = 128        # 8 MiB


# Chunks

cdef inline void link_chunk(Chunk *chunk, Chunk **first) noexcept nogil:
    chunk.previous = NULL
    chunk.next = first[0]
    if first[0] is not NULL:
        first[0].previous = chunk
    first[0] = chunk


cdef inline void unlink_chunk(Chunk *chunk, Chunk **first) noexcept nogil:
    if chunk.previous is NULL:
        first[0] = chunk.next
    else:
        chunk.previous.next = chunk.next
    if chunk.next is not NULL:
        chunk.next.previous = chunk.previous


cdef inline Chunk **list_of(Chunk *chunk) noexcept nogil:
    return &chunk.slab.roomy[chunk.slot_bytes // SLOT_STEP_BYTES]


cdef Chunk *slab_more(Slab *slab, uint32_t slot_bytes) noexcept nogil:
    """Add a chunk with slots of this size, as the first with room; NULL without memory (nothing changed)."""
    cdef Chunk *chunk = slab.spare
    cdef void *memory = NULL
    cdef uint32_t word
    if chunk is not NULL:
        slab.spare = chunk.next
        slab.spares -= 1
    else:
        if posix_memalign(&memory, CHUNK_BYTES, ASKED_BYTES) != 0:
            return NULL
        slab.chunks += 1
        if slab.many:
            fastbean_use_large_pages(memory)
        chunk = <Chunk *>memory
    memset(chunk, 0, sizeof(Chunk))
    chunk.slab = slab
    chunk.slot_bytes = slot_bytes
    chunk.slots = (ASKED_BYTES - sizeof(Chunk)) // slot_bytes
    chunk.reciprocal = ((<uint64_t>1 << 32) + slot_bytes - 1) // slot_bytes
    memset(chunk.free, 0xFF, chunk.slots // 64 * 8)
    word = chunk.slots // 64
    if chunk.slots % 64:
        chunk.free[word] = (<uint64_t>1 << (chunk.slots % 64)) - 1
    link_chunk(chunk, list_of(chunk))
    return chunk


cdef inline uint32_t next_sweep(Slab *slab) noexcept nogil:
    return slab.chunks + max(slab.chunks // 4, <uint32_t>SWEEP_LEAST_CHUNKS)


cdef void free_chunk(Chunk *chunk) noexcept nogil:
    cdef Slab *slab = chunk.slab
    slab.chunks -= 1
    slab.sweep_at = min(slab.sweep_at, next_sweep(slab))
    free(chunk)


cdef void chunk_next_word(Chunk *chunk) noexcept nogil:
    """The last slot of a word was taken: step to the next word with a free slot, or leave the list."""
    while chunk.word < CHUNK_WORDS and chunk.free[chunk.word] == 0:
        chunk.word += 1
    if chunk.word == CHUNK_WORDS:
        unlink_chunk(chunk, list_of(chunk))


cdef void chunk_has_room(Chunk *chunk) noexcept nogil:
    """The first slot of a full chunk was freed: put the chunk back into its list."""
    cdef Chunk *other = list_of(chunk)[0]
    if other is not NULL and other.used == 0:
        retire(other)
    link_chunk(chunk, list_of(chunk))


cdef void chunk_is_empty(Chunk *chunk) noexcept nogil:
    """The last slot in use was freed. The only chunk of its size with room stays in its list: a queue that keeps
    running empty would need it again at once."""
    if chunk.previous is not NULL or chunk.next is not NULL:
        retire(chunk)


cdef void retire(Chunk *chunk) noexcept nogil:
    """Move an empty chunk to the spare ones."""
    cdef Slab *slab = chunk.slab
    unlink_chunk(chunk, list_of(chunk))
    chunk.next = slab.spare
    slab.spare = chunk
    slab.spares += 1


# Releasing memory

cdef bint are_free(Chunk *chunk, uint32_t first, uint32_t last) noexcept nogil:
    """Whether all slots from `first` to `last` are free."""
    cdef uint32_t word
    cdef uint64_t wanted
    for word in range(first // 64, last // 64 + 1):
        wanted = ~<uint64_t>0
        if word == first // 64:
            wanted &= ~<uint64_t>0 << (first % 64)
        if word == last // 64:
            wanted &= ~<uint64_t>0 >> (63 - last % 64)
        if chunk.free[word] & wanted != wanted:
            return False
    return True


cdef void drop_free_pages(Chunk *chunk, size_t page_bytes) noexcept nogil:
    """Release the pages that hold only free slots. The first page stays, because it has the chunk's header, and so does
    the last one, because the C library's next header is there. With large pages there are no others."""
    cdef size_t at = page_bytes
    cdef size_t begin = 0
    cdef uint32_t first
    cdef uint32_t last
    while at + page_bytes < CHUNK_BYTES:
        first = <uint32_t>((at - sizeof(Chunk)) // chunk.slot_bytes)
        last = <uint32_t>((at + page_bytes - 1 - sizeof(Chunk)) // chunk.slot_bytes)
        if are_free(chunk, min(first, chunk.slots - 1), min(last, chunk.slots - 1)):
            if begin == 0:
                begin = at
        elif begin:
            fastbean_drop_pages(<char *>chunk + begin, at - begin)
            begin = 0
        at += page_bytes
    if begin:
        fastbean_drop_pages(<char *>chunk + begin, at - begin)


cdef void free_empty_chunks(Slab *slab, bint with_pages) noexcept nogil:
    """Return empty chunks to the C library; with_pages: and their pages to the system."""
    cdef size_t page_bytes = fastbean_page_bytes()
    cdef Chunk *chunk
    cdef uint32_t number
    for number in range(SLOT_SIZES):
        chunk = slab.roomy[number]
        if chunk is not NULL and chunk.used == 0:
            retire(chunk)
    while slab.spare is not NULL:
        chunk = slab.spare
        slab.spare = chunk.next
        if with_pages:
            drop_free_pages(chunk, page_bytes)
        free_chunk(chunk)
    slab.spares = 0


cdef void slab_sweep(Slab *slab) noexcept nogil:
    """Release the pages of chunks that hold only free slots. Costs a look at each page of each chunk with room."""
    cdef size_t page_bytes = fastbean_page_bytes()
    cdef Chunk *chunk
    cdef uint32_t number
    slab.sweep_at = next_sweep(slab)
    for number in range(SLOT_SIZES):
        chunk = slab.roomy[number]
        while chunk is not NULL:
            if (chunk.slots - chunk.used) * chunk.slot_bytes >= page_bytes:
                drop_free_pages(chunk, page_bytes)
            chunk = chunk.next


cdef void slab_release_to_os(Slab *slab) noexcept nogil:
    """Release the pages of everything that was freed. glibc keeps only what lies below an allocation that is in use.

    Costs a sweep, and glibc's own walk through its heap. If the heap is not the server's own there is no such
    walk: memory of chunks is released anyway, and larger pieces when glibc decides to.
    """
    free_empty_chunks(slab, not fastbean_heap_is_owned())
    slab_sweep(slab)
    fastbean_trim()


cdef void slab_end(Slab *slab) noexcept nogil:
    """Free the chunks of a slab without a slot in use, and leave an empty slab.

    Their pages go to the system too: glibc would keep the gaps between the chunks of other servers in this process.
    """
    free_empty_chunks(slab, True)


# The C library's heap

cdef void *slab_large(Slab *slab, size_t size) noexcept nogil:
    """Allocate an object too large for a slot; NULL without memory."""
    cdef void *memory = malloc(size)
    if slab.many:
        fastbean_use_large_pages(memory)
    return memory


cdef void own_heap() noexcept nogil:
    """Make the C library's heap a server's own: it keeps freed memory until `slab_release_to_os`.

    By default glibc releases memory that is freed at the end of its heap, when a queue runs empty, and has to request
    every page again for the next jobs.
    """
    fastbean_own_heap()


cdef void slab_expect_many(Slab *slab) noexcept nogil:
    """Prepare for very many jobs until `slab_expect_no_more`: if the heap is the server's own, it grows in large steps.

    They use large pages: one page fault for two megabytes. Small pages would take as long as reading the jobs.
    """
    slab.many = True
    fastbean_grow_by(RESTORE_STEP_BYTES)


cdef void slab_expect_no_more(Slab *slab) noexcept nogil:
    """All jobs are there: release what the last large step allocated beyond the need."""
    slab.many = False
    fastbean_grow_by(USUAL_STEP_BYTES)
    fastbean_trim()


# For tests

@cython.final
cdef class Slots:
    """A slab for tests: slots by their addresses, in every build.

    A test must free each slot that it takes, as the core does.
    """

    cdef Slab slab

    def __dealloc__(self):
        slab_end(&self.slab)

    def take(self, uint32_t size):
        """Take a slot; returns its address.

        Args:
            size: in bytes, LEAST_SLOT_BYTES to MOST_SLOT_BYTES.

        Raises:
            ValueError: there are no slots of this size.
            MemoryError: there is no memory.
        """
        cdef void *slot
        if not LEAST_SLOT_BYTES <= size <= MOST_SLOT_BYTES:
            raise ValueError(f"a slot has {<int>LEAST_SLOT_BYTES} to {<int>MOST_SLOT_BYTES} bytes, not {size}")
        slot = slot_take(&self.slab, size)
        if slot is NULL:
            raise MemoryError("no memory for another chunk")
        return <uintptr_t>slot

    def give(self, uintptr_t address):
        """Free a slot that `take` returned."""
        slot_free(<void *>address)

    def each_iteration(self):
        """Release free pages if there are many more chunks than at the last sweep."""
        slab_each_iteration(&self.slab)

    def release_to_os(self):
        """Release all pages that hold no slot in use."""
        slab_release_to_os(&self.slab)

    def chunks(self):
        """The number of chunks, and how many of them are spare."""
        return self.slab.chunks, self.slab.spares
