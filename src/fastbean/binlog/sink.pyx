"""The interface between the writer of the binlog and the place where its records become safe.

`fastbean.binlog.file_sink.FileSink` keeps them in the files of a directory. A sink may also be on other machines
(``remote``).

The writer calls everything from the loop. A failure is final: the writer hands over nothing after it.
"""

from libc.stdint cimport uint64_t


cdef class Sink:
    """Where the run of records becomes safe."""

    cdef void begin(self, Batch *batch) noexcept nogil:
        """Take a batch, and leave an empty one that begins where it ends. Not to be called while ``busy``.

        If it is written when this returns, ``written_lsn`` says so; otherwise the sink is ``busy``, and keeps the batch
        until `finished` reports SINK_WROTE.
        """

    cdef SinkEvent finished(self) noexcept nogil:
        """Take the report of one piece of work that has ended; SINK_NOTHING if there is none."""
        return SINK_NOTHING

    cdef void trim(self, uint64_t lsn) noexcept nogil:
        """No record below this LSN is needed any more, and a safe record says so."""
