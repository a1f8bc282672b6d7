"""A part of a file in memory, which moves on through the file."""

from libc.stdint cimport uint64_t

cdef struct Window:                 # all zero bytes = one without a file and without memory
    int fd
    int error                       # errno of the read that has failed, or of the want of memory; 0 for none
    char *data
    size_t cap
    size_t len
    uint64_t begin                  # the offset in the file of what is in `data`
    uint64_t file_bytes             # the size of the file

cdef int window_open(Window *window, int fd, uint64_t file_bytes) noexcept nogil
cdef bint window_reach(Window *window, uint64_t at) noexcept nogil
cdef void window_end(Window *window) noexcept nogil
