"""The sink of a replicated binlog: hands each batch to a thread that has it appended to a stream."""

from libc.stdint cimport uint64_t

from fastbean.binlog.sink cimport Sink


cdef class StreamSink(Sink):
    cdef int wake_in                # a pipe that wakes the other thread
    cdef int done_out               # a pipe that the loop watches: its reading and its writing end
    cdef int done_in
    cdef bint taken                 # the other thread has the batch
    cdef uint64_t trim_lsn          # no record below it is needed
