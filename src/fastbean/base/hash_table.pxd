"""A hash table that grows and shrinks step by step."""

from libc.stdint cimport uint64_t


cdef struct Entry:              # embed it as the first member of the structs to be stored
    Entry *next
    uint64_t hash

cdef struct Table:              # all zero bytes = an empty table
    Entry **buckets
    Entry **old_buckets         # being emptied, a few buckets with each change; NULL when no resize is under way
    size_t count
    size_t size                 # buckets, a power of two, or 0
    size_t old_size
    size_t moved                # buckets at the start of old_buckets that have been emptied

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
