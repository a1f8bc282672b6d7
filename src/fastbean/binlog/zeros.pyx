"""Zeros in segments: writing them, so that a file is allocated, and looking for them. All of it without the GIL."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from libc.string cimport memset, strerror

from fastbean.binlog.record cimport is_zero

cdef extern from *:
    """
    #include <errno.h>
    #include <unistd.h>
    /* The first offset from `at` that is not in a hole, -1 if there is none; `at` where the system cannot say. */
    static long long fastbean_next_data(int fd, long long at) {
    #ifdef SEEK_DATA
        long long found = lseek(fd, at, SEEK_DATA);
        return found >= 0 ? found : errno == ENXIO ? -1 : at;
    #else
        (void)fd;
        return at;
    #endif
    }
    """
    long long fastbean_next_data(int fd, long long at) nogil
    ssize_t pread(int fd, void *data, size_t size, long long offset) nogil
    ssize_t pwrite(int fd, const void *data, size_t size, long long offset) nogil

cdef enum:
    PAGE_BYTES = 4096
    READ_BYTES = 32768


def write_zeros(int fd, uint64_t size, uint64_t at=0):
    """Write zero bytes into a file, without the GIL.

    Args:
        fd: the file, open for writing.
        size: the offset in bytes at which to stop.
        at: the offset at which to start.

    Raises:
        OSError: a write failed; what was written before it stays.
    """
    cdef int error
    with nogil:
        error = write_zero_pages(fd, size, at)
    if error:
        raise OSError(error, strerror(error).decode())


cdef int write_zero_pages(int fd, uint64_t size, uint64_t at) noexcept nogil:
    """Returns 0, or the errno of the write that failed.

    It writes page by page. Linux caches what one call writes in pieces as large as possible, and a later sync of a few
    records then processes the whole piece around them. With small pieces a sync on ext4 took a sixth less.
    """
    cdef char[PAGE_BYTES] zeros
    cdef ssize_t written
    memset(zeros, 0, PAGE_BYTES)
    while at < size:
        written = pwrite(fd, zeros, min(size - at, <uint64_t>PAGE_BYTES - at % PAGE_BYTES), at)
        if written >= 0:
            at += written
        elif errno != EINTR:
            return errno
    return 0


def fill_holes(int fd, uint64_t size):
    """Write zeros wherever a file reads as zeros, so that all of it is allocated; without the GIL.

    What is no zero is neither written nor moved, so that a power cut in between harms nothing.

    Args:
        fd: the file, open for reading and writing.
        size: the offset in bytes up to which; the file has at least as many afterwards.

    Raises:
        OSError: a read or a write has failed; what was written before it stays.
    """
    cdef int error
    with nogil:
        error = fill_zero_pages(fd, size)
    if error:
        raise OSError(error, strerror(error).decode())


cdef int fill_zero_pages(int fd, uint64_t size) noexcept nogil:
    """Returns 0, or the errno of the read or write that has failed."""
    cdef char[PAGE_BYTES] found
    cdef uint64_t at = 0
    cdef ssize_t length
    cdef int error
    while at < size:
        length = pread(fd, found, min(size - at, <uint64_t>PAGE_BYTES - at % PAGE_BYTES), at)
        if length < 0:
            if errno != EINTR:
                return errno
            continue
        if length == 0:
            return write_zero_pages(fd, size, at)
        if is_zero(found, length):
            error = write_zero_pages(fd, at + length, at)
            if error:
                return error
        at += length
    return 0


def reads_as_zeros(int fd, uint64_t at=0) -> bool:
    """Whether a file contains only zeros from `at`; without the GIL.

    Where the file system reports what was allocated and never written, that part is not read: most of a spare segment,
    and of the last one.

    Args:
        fd: the file, open for reading, and synced: some file systems report as a hole what is not on the disk yet. Its
            offset moves.
        at: the offset in bytes at which to start.

    Raises:
        OSError: the file cannot be read.
    """
    cdef int error
    with nogil:
        error = look_for_bytes(fd, at)
    if error > 0:
        raise OSError(error, strerror(error).decode())
    return error == 0


cdef int look_for_bytes(int fd, long long at) noexcept nogil:
    """Returns 0 if there are only zeros, -1 if there are other bytes, or the errno of the read that failed."""
    cdef char[READ_BYTES] found
    cdef ssize_t size
    while True:
        at = fastbean_next_data(fd, at)
        size = pread(fd, found, READ_BYTES, at) if at >= 0 else 0
        if size == 0:
            return 0
        if size > 0 and not is_zero(found, size):
            return -1
        if size < 0 and errno != EINTR:
            return errno
        at += max(size, 0)
