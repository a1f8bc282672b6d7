"""The interface between engine and binlog: neither imports the other.

The engine writes to a ``Journal``. This one stores nothing: every LSN is 0, so replies never have to wait, and there is
always space. ``fastbean.binlog.writer.BinlogWriter`` is the one that writes a binlog.

A binlog uses the engine as a ``JobSource``: to restore jobs and tubes at the start, and to read them again for
compaction.

While ``tight`` is set, nothing may be recorded: commands wait.

Order of calls for a put: `reserve` before anything has changed, `put` when the job is in its heap. Only a put can be
refused; the journal always keeps room for updates and deletes. The times of a JobImage and a TubeImage are monotonic
here; the binlog converts them to wall time and back.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.clock cimport NEVER


cdef class JobSource:
    """The owner of the jobs."""

    cdef int restore_put(self, JobImage *job, uint32_t segment, uint64_t lsn, uint32_t *before) noexcept nogil:
        """A put record was read: a new job, or a known one that compaction has copied.

        `before` is set to the segment where the job's put record stood until now, or to 0. -1 without memory.
        """
        return 0

    cdef int restore_update(self, JobImage *job) noexcept nogil:
        """An update was read. Returns 1 when there is no such job, -1 without memory."""
        return 0

    cdef uint32_t restore_delete(self, uint64_t id, uint64_t *bytes) noexcept nogil:
        """A delete was read. Returns the segment of the job's put (0: no such job); `bytes`: its `logged_bytes`."""
        return 0

    cdef int restore_tube(self, TubeImage *tube, uint32_t segment, uint32_t *before) noexcept nogil:
        """Settings of a tube were read, in `segment`: they replace those before.

        `before` is set to the segment of the record that was needed until now, or to 0. Returns 1 if the new record has
        to be kept, 0 if not, -1 without memory.
        """
        return 0

    cdef uint32_t restore_clear(self, Clearing *clearing, uint64_t *bytes) noexcept nogil:
        """Remove one job that a record of a cleared tube has ended; as `restore_delete`. 0: there is none left."""
        return 0

    cdef bint image_of(self, uint64_t id, uint32_t segment, JobImage *job) noexcept nogil:
        """Fill in `job`, if that job is alive and its put record is in `segment`."""
        return False

    cdef void moved(self, uint64_t id, uint32_t segment) noexcept nogil:
        """The job's put record is now in `segment`."""

    cdef bint oldest_settings(self, uint32_t segment, TubeImage *tube) noexcept nogil:
        """Fill in `tube` with the tube that has the oldest record of settings, if that is in `segment`."""
        return False

    cdef void settings_moved(self, uint32_t segment) noexcept nogil:
        """The settings of that tube have a new record, in `segment`."""


cdef class Compactor:
    """What keeps a journal small; this one does nothing."""

    cdef bint step(self) noexcept nogil:
        """Take one step of compaction, if needed; true when another one can follow at once."""
        return False


cdef class Journal:
    """The journal that stores nothing."""

    def __cinit__(self, *args, **kwargs):
        self.id_limit = <uint64_t>-1
        self.done_fd = -1
        self.more_ids_at = <uint64_t>-1
        self.compactor = Compactor()

    @property
    def failure(self):
        """Why the journal cannot continue, or None."""
        return None

    def make_requests(self):
        """Have Python do what code without the GIL has asked for; called soon after ``has_requests`` was set.

        What fails, such as for lack of memory, is asked for again.
        """

    cdef Space reserve(self, uint64_t body_bytes) noexcept nogil:
        """Whether a put with a body of `body_bytes` may be recorded now, however long the name of its tube is."""
        return SPACE_READY

    cdef uint32_t put(self, JobImage *job) noexcept nogil:
        """Record a new job. Returns the number of the segment, 0 for none."""
        return 0

    cdef void update(self, JobImage *job, bint gates) noexcept nogil:
        """Record what has changed in a job. `gates`: a reply may depend on it."""

    cdef void delete(self, uint64_t id, uint32_t segment, uint64_t bytes) noexcept nogil:
        """Record the end of a job whose put record is in `segment` and counted for `bytes`."""

    cdef uint32_t settings(self, TubeImage *tube, uint32_t segment) noexcept nogil:
        """Record all settings of a tube. `segment`: of the record that they replace; 0 if none was needed.

        Returns the segment of the new record, 0 if it does not have to be kept: only a pause needs that.
        """
        return 0

    cdef void settings_over(self, uint32_t segment, uint32_t name_bytes) noexcept nogil:
        """A pause has ended by itself: its record, in `segment`, is not needed any more."""

    cdef void more_ids(self) noexcept nogil:
        """``more_ids_at`` is reached: record a higher ``id_limit``, and raise it once that is safe.

        If ``id_limit`` itself is reached before, the journal is ``tight`` until then.
        """

    cdef void take_event(self) noexcept nogil:
        """A write or a sync has ended in another thread: ``committed_lsn`` may have grown."""

    cdef uint64_t open_batch(self) noexcept nogil:
        """The LSN at which the batch that is open now will end at the least; if there is none, one begins.

        A reply that waits for it cannot report what another server has changed meanwhile.
        """
        return 0

    cdef void commit(self, int64_t now_ns, bint alone) noexcept nogil:
        """Make the records of this iteration as safe as the policy says.

        `alone`: apart from clients that wait for this sync, no client is ready to be served.
        """

    cdef bint syncs_shortly(self) noexcept nogil:
        """Whether replies wait for a sync that the loop could do itself, and that will probably be short."""
        return False

    cdef int64_t due_ns(self) noexcept nogil:
        """When to call `commit` at the latest, or NEVER."""
        return NEVER

    cdef bint figures_of(self, BinlogFigures *figures) noexcept nogil:
        """Fill in what `stats` reports about the binlog; false when there is none."""
        return False
