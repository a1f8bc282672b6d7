"""A hash table that grows and shrinks in steps.

The entries are the caller's own structs with an ``Entry`` as their first member; the table owns nothing but its
arrays of chains. When it has more entries than buckets, or far fewer, it takes a second array and moves a few chains
with each insertion and removal, so that no single one is slow, however large the table is.

Always true: an entry stands in ``buckets``, or in a chain of ``old_buckets`` at or above ``moved``.
"""

from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef enum:
    SMALLEST_SIZE = 8
    MOVED_AT_ONCE = 4           # chains for each change; two would do to be done before the next growth
    SPARSE = 8                  # a table with less than one entry for so many buckets shrinks


cdef inline Entry **chain_of(Table *table, uint64_t hash) noexcept nogil:
    """The chain in which an entry with this hash stands, or would stand."""
    cdef size_t place
    if table.old_buckets is not NULL:
        place = hash & (table.old_size - 1)
        if place >= table.moved:
            return &table.old_buckets[place]
    return &table.buckets[hash & (table.size - 1)]


cdef void move_some(Table *table) noexcept nogil:
    """Move a few chains from the old array to the new one."""
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
    """Begin to move to an array of `size` buckets. Returns 0, or -1 without memory (nothing changed)."""
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
    """Give an empty table the size that so many entries want; without memory, or if it is in use, nothing happens."""
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

    Only the first insertion into an empty table can fail: a table that cannot grow goes on with longer chains.
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
    """Take `entry`, which must be in the table, out of it."""
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
    """Give the arrays back and leave an empty table; the entries are the caller's."""
    free(table.buckets)
    free(table.old_buckets)
    table.buckets = NULL
    table.old_buckets = NULL
    table.count = 0
    table.size = 0


cdef uint64_t hash_number(uint64_t number) noexcept nogil:
    """Spread a number whose values are not a stranger's choice, one to one (Knuth's multiplicative hashing, TAOCP 6.4).

    Eight numbers that follow one another get chains that do, in one line of a processor's cache.
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
    """SipHash-1-3 of a stranger's bytes (Aumasson and Bernstein 2012): chains cannot be made long on purpose."""
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
