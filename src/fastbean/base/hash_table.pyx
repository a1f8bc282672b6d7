"""A hash table that grows and shrinks step by step.

The entries are the caller's own structs with an ``Entry`` as their first member; the table owns only its arrays of
chains. When it has more entries than buckets, or far fewer, it allocates a second array and moves a few chains with
each insertion and removal, so that no single operation is slow, however large the table is.

Invariant: an entry is either in ``buckets``, or in a chain of ``old_buckets`` whose index is at least ``moved``.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

# MOVED_AT_ONCE: a resize has to be complete before the table must grow again. After growing from n to 2n buckets, at n
# entries, the next growth is n insertions away, and n chains have to be moved: one with each insertion is enough. After
# shrinking from n to n/2 buckets, at n/8 entries, it is 3n/8 insertions away: three are enough; four leave a margin.
# More would make each change slower. A shrink may have to wait for the one before; that costs only memory.
#
# SPARSE: after a shrink the table is a quarter full. It grows again when the count has quadrupled, shrinks again when
# it has halved, so a count that swings does not resize the table with each swing.
cdef enum:
    SMALLEST_SIZE = 8
    MOVED_AT_ONCE = 4           # chains moved with each change
    SPARSE = 8                  # the table shrinks when it has more than SPARSE buckets per entry


cdef inline Entry **chain_of(Table *table, uint64_t hash) noexcept nogil:
    """The chain that holds the entries with this hash, or would hold them."""
    cdef size_t place
    if table.old_buckets is not NULL:
        place = hash & (table.old_size - 1)
        if place >= table.moved:
            return &table.old_buckets[place]
    return &table.buckets[hash & (table.size - 1)]


cdef void move_some(Table *table) noexcept nogil:
    """Move the next MOVED_AT_ONCE chains from the old array to the new one."""
    cdef Entry *entry
    cdef Entry *following
    cdef Entry **chain
    cdef size_t end = table.moved + MOVED_AT_ONCE
    if end > table.old_size:
        end = table.old_size
    while table.moved < end:
        entry = table.old_buckets[table.moved]
        table.moved += 1
        while entry is not NULL:
            following = entry.next
            chain = &table.buckets[entry.hash & (table.size - 1)]
            entry.next = chain[0]
            chain[0] = entry
            entry = following
    if table.moved == table.old_size:
        free(table.old_buckets)
        table.old_buckets = NULL


cdef int resize(Table *table, size_t size) noexcept nogil:
    """Start to move to an array of `size` buckets. Returns 0, or -1 without memory (nothing changed)."""
    cdef Entry **buckets = <Entry **>calloc(size, sizeof(Entry *))
    if buckets is NULL:
        return -1
    table.old_buckets = table.buckets
    table.old_size = table.size
    table.moved = 0
    table.buckets = buckets
    table.size = size
    return 0


cdef void table_expect(Table *table, size_t count) noexcept nogil:
    """Size an empty table for `count` entries. Does nothing without memory, or if the table is in use."""
    cdef size_t size = SMALLEST_SIZE
    while size < count:
        size *= 2
    if table.count == 0 and table.old_buckets is NULL and size > table.size:
        free(table.buckets)
        table.buckets = NULL
        table.size = 0
        resize(table, size)


cdef int table_insert(Table *table, Entry *entry, uint64_t hash) noexcept nogil:
    """Add `entry` under `hash`; equal hashes are fine. Returns 0, or -1 without memory (nothing changed).

    Only the first insertion into an empty table can fail: a table that cannot grow continues with longer chains.
    """
    cdef Entry **chain
    if table.size == 0:
        if resize(table, SMALLEST_SIZE) < 0:
            return -1
    elif table.old_buckets is not NULL:
        move_some(table)
    elif table.count >= table.size:
        resize(table, table.size * 2)
    chain = chain_of(table, hash)
    entry.hash = hash
    entry.next = chain[0]
    chain[0] = entry
    table.count += 1
    return 0


cdef Entry *table_first(Table *table, uint64_t hash) noexcept nogil:
    """The first entry with this hash, or NULL."""
    cdef Entry *entry
    if table.size == 0:
        return NULL
    entry = chain_of(table, hash)[0]
    while entry is not NULL and entry.hash != hash:
        entry = entry.next
    return entry


cdef Entry *table_next(Entry *entry) noexcept nogil:
    """The next entry with the same hash as `entry`, or NULL."""
    cdef uint64_t hash = entry.hash
    entry = entry.next
    while entry is not NULL and entry.hash != hash:
        entry = entry.next
    return entry


cdef void table_remove(Table *table, Entry *entry) noexcept nogil:
    """Remove `entry`, which must be in the table."""
    cdef Entry **link = chain_of(table, entry.hash)
    while link[0] != entry:
        link = &link[0].next
    link[0] = entry.next
    table.count -= 1
    if table.old_buckets is not NULL:
        move_some(table)
    elif table.size > SMALLEST_SIZE and table.count < table.size // SPARSE:
        resize(table, table.size // 2)


cdef void table_free(Table *table) noexcept nogil:
    """Free the arrays and leave an empty table; the entries stay the caller's."""
    free(table.buckets)
    free(table.old_buckets)
    table.buckets = NULL
    table.old_buckets = NULL
    table.count = 0
    table.size = 0


cdef uint64_t hash_number(uint64_t number) noexcept nogil:
    """Spread a number that no client can choose, one to one (Knuth's multiplicative hashing, TAOCP 6.4).

    The lowest three bits are kept: eight consecutive numbers get neighbouring chains, which share a cache line.
    """
    cdef uint64_t spread = ((number >> 3) * <uint64_t>0x9E3779B97F4A7C15) & (UINT64_MAX >> 3)
    return ((spread ^ (spread >> 32)) << 3) | (number & 7)


cdef inline uint64_t rotated(uint64_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (64 - bits))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotated(v[1], 13) ^ v[0]
    v[0] = rotated(v[0], 32)
    v[2] += v[3]
    v[3] = rotated(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotated(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotated(v[1], 17) ^ v[2]
    v[2] = rotated(v[2], 32)


cdef uint64_t hash_bytes(HashKey *key, const char *data, size_t size) noexcept nogil:
    """SipHash-1-3 (Aumasson and Bernstein 2012) of bytes that a client chose: it cannot make chains long on purpose."""
    cdef uint64_t[4] v
    cdef uint64_t word
    cdef size_t left = size
    v[0] = key.k0 ^ <uint64_t>0x736F6D6570736575
    v[1] = key.k1 ^ <uint64_t>0x646F72616E646F6D
    v[2] = key.k0 ^ <uint64_t>0x6C7967656E657261
    v[3] = key.k1 ^ <uint64_t>0x7465646279746573
    while True:
        word = 0
        if left < 8:
            memcpy(&word, data, left)
            word |= <uint64_t>size << 56
        else:
            memcpy(&word, data, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
        if left < 8:
            break
        data += 8
        left -= 8
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
