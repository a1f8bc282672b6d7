"""A hash table that grows and shrinks in steps."""

from libc.stdint cimport uint64_t


cdef struct Entry:              # embed it as the first member of what the table holds
    Entry *next
    uint64_t hash

cdef struct Table:              # all zero bytes = an empty table
    Entry **buckets
    Entry **old_buckets         # being emptied, a few buckets with each change; NULL when nothing is moving
    size_t count
    size_t size                 # buckets, a power of two, or 0
    size_t old_size
    size_t moved                # buckets of old_buckets that are empty for good

cdef struct HashKey:
    uint64_t k0
    uint64_t k1

cdef int table_insert(Table *table, Entry *entry, uint64_t hash) noexcept nogil
cdef void table_expect(Table *table, size_t count) noexcept nogil
cdef Entry *table_first(Table *table, uint64_t hash) noexcept nogil
cdef Entry *table_next(Entry *entry) noexcept nogil
cdef void table_remove(Table *table, Entry *entry) noexcept nogil
cdef void table_free(Table *table) noexcept nogil
cdef uint64_t hash_bytes(HashKey *key, const char *data, size_t size) noexcept nogil
cdef uint64_t hash_number(uint64_t number) noexcept nogil
