"""The interface between the writer of the binlog and the place where its records become safe."""

from libc.stdint cimport uint32_t, uint64_t

from fastbean.binlog.batch cimport Batch

cdef enum SinkEvent:
    SINK_NOTHING
    SINK_WROTE                      # a batch was written
    SINK_MADE_SAFE                  # what was written before is safe now
    SINK_FAILED                     # `error` and the members after it say why


cdef class Sink:
    cdef bint remote                # a batch that is written is safe, and the loop must never wait for that
    cdef bint busy                  # with a batch: no other one can begin
    cdef Batch batch                # that one; else an empty one, whose memory the next one gets
    cdef uint64_t written_lsn       # records below it were written
    cdef uint64_t safe_lsn          # records below it are safe
    cdef uint32_t unsynced_files    # full files that stay open until they are synced
    cdef int error                  # errno of what failed; 0 with a text of its own, or if nothing failed
    cdef const char *error_text     # a text that stays in memory; "%d" in it stands for the segment
    cdef uint32_t error_segment

    cdef void begin(self, Batch *batch) noexcept nogil
    cdef SinkEvent finished(self) noexcept nogil
    cdef void trim(self, uint64_t lsn) noexcept nogil
