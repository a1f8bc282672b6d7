"""What the engine tells the log, and what the log asks of the engine: neither knows the other.

``Journal`` is what the engine writes to. This one keeps nothing: every LSN is 0, so the gate of the replies is always
open, and there is always space. ``fastbean.binlog.writer.BinlogWriter`` is the one that keeps a log.

``Store`` is what a log needs of the engine: to restore jobs at the start, and to read them again for compaction.

While ``tight`` is set, nothing may be logged: commands wait.

Order of calls for a put: `reserve` before anything has changed, `put` when the job has its place. Only a put can be
refused; the log sees to it that there is always room for updates and deletes. The times of a JobImage that passes
here are monotonic; the log turns them into wall time and back.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.clock cimport NEVER


cdef class Store:
    """Whoever holds the jobs."""

    cdef int restore_put(self, JobImage *job, uint32_t segment, uint64_t lsn, uint32_t *before) noexcept:
        """A put record was read: a new job, or a known one that compaction has copied.

        `before` is set to the segment where the job's put record stood until now, or to 0. -1 without memory.
        """
        return 0

    cdef int restore_update(self, JobImage *job, uint64_t lsn) noexcept:
        """An update was read. 1 when there is no such job, -1 without memory."""
        return 0

    cdef uint32_t restore_delete(self, uint64_t id, uint64_t *bytes) noexcept:
        """A delete was read: the segment of the job's put record (0 for no such job), and what it counted for."""
        return 0

    cdef bint image_of(self, uint64_t id, uint32_t segment, JobImage *job) noexcept:
        """Fill `job` in, if that job is alive and its put record stands in `segment`."""
        return False

    cdef void moved(self, uint64_t id, uint32_t segment) noexcept:
        """The job's put record now stands in `segment`."""


cdef class Journal:
    """The journal that keeps nothing."""

    def __cinit__(self, *args, **kwargs):
        self.id_limit = <uint64_t>-1

    cdef Space reserve(self, uint64_t body_bytes) noexcept:
        """Whether a put of so large a body may be logged now, however long the name of its tube is."""
        return SPACE_READY

    cdef uint32_t put(self, JobImage *job) noexcept:
        """Log a new job. Returns the number of the segment, 0 for none."""
        return 0

    cdef void update(self, JobImage *job, bint gates) noexcept:
        """Log what has changed of a job. `gates`: a reply may depend on it."""

    cdef void delete(self, uint64_t id, uint32_t segment, uint64_t bytes) noexcept:
        """Log the end of a job whose put record stands in `segment` and counted for `bytes`."""

    cdef void more_ids(self) noexcept:
        """``id_limit`` is reached: raise it, and let the log know first."""

    cdef void commit(self, int64_t now_ns, bint alone) noexcept:
        """Make the records of this iteration as safe as the policy says. `alone`: only one client waits for it."""

    cdef bint syncs_shortly(self) noexcept:
        """Whether replies wait for a sync that can be made here and now, and will probably be short."""
        return False

    cdef bint compact(self) noexcept:
        """One step of compaction, if there is need; true when another can be taken at once."""
        return False

    cdef int64_t due_ns(self) noexcept:
        """When `commit` wants to be called at the latest, or NEVER."""
        return NEVER

    cdef bint figures_of(self, BinlogFigures *figures) noexcept:
        """Fill in what `stats` tells of the log; false when there is none."""
        return False
