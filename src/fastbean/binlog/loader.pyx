"""Reading at the start: restores the jobs and tubes of the engine, and the counts of the writer, from the records."""

cimport cython
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset, strerror

from fastbean.binlog.record cimport (
    FAULT_BROKEN, FAULT_END, FAULT_IMPOSSIBLE, FAULT_NEWER, FAULT_NONE, RECORD_CLEARED, RECORD_DELETE,
    RECORD_DURABLE, RECORD_NEXT_ID, RECORD_PUT, RECORD_SHED, RECORD_TUBE, RECORD_UPDATE, SEGMENT_HEADER_BYTES,
    Fault, Record, job_from_wall, read_record, tube_from_wall,
)
from fastbean.binlog.room cimport ID_BYTES, Segment
from fastbean.binlog.window cimport Window, window_end, window_open, window_reach
from fastbean.binlog.writer cimport BinlogWriter
from fastbean.engine.journal cimport Clearing, JobImage, TubeImage, logged_bytes


@cython.final
cdef class Loader:
    """Restores the jobs of all segments. It is not used after the writer has started.

    Args:
        journal: the writer, which has written nothing yet.
    """

    cdef BinlogWriter journal
    cdef Window window
    cdef uint64_t known_from_id     # of jobs with this id or a higher one, the binlog has every record

    def __cinit__(self, BinlogWriter journal not None):
        memset(&self.window, 0, sizeof(Window))
        self.journal = journal

    def __dealloc__(self):
        window_end(&self.window)

    def load(self, header, int fd, uint64_t size):
        """Restore the jobs from one segment; call it for each, the oldest first.

        Args:
            header: the segment's `fastbean.binlog.segment_files.Header`. All segments are of one run.
            fd: its file, open for reading.
            size: of the file, in bytes.

        Returns:
            What ended the reading ("end": zeros, or the end of the file; "broken": bytes that are no record; "newer": a
            record that only a newer fastbean can read; "impossible": a record with a right checksum and wrong members;
            "unknown": a change of a job whose put the binlog should have; "memory"), and the offset in the file
            where it ended.

        Raises:
            OSError: the file cannot be read.
        """
        cdef BinlogWriter journal = self.journal
        cdef Segment *segment = NULL
        cdef int error
        with nogil:
            error = window_open(&self.window, fd, size)
        if error == 0 and self.window.file_bytes < SEGMENT_HEADER_BYTES:
            return "broken", 0
        if error == 0:
            segment = journal.room.add_segment(header.number, size, header.first_lsn)
        if segment is NULL:
            return self.read_end(FAULT_NONE, -1), 0
        if journal.room.segment_count == 1:
            self.known_from_id = header.floor
            journal.begin_run(header.run)
        journal.id_limit = header.id_limit
        journal.highest_id = max(journal.highest_id, <uint64_t>header.floor - 1)
        journal.end_lsn = segment.first_lsn
        return self.restore_records(segment), segment.used

    def apply(self, const uint8_t[::1] records not None, uint64_t first_lsn, int64_t sent_ns, int64_t now_ns):
        """Apply a piece of the run, as another server has sent it, to an engine that serves no client.

        The segments are this server's own, and have no files. What a shed record says is not needed is dropped at once.

        Args:
            records: whole records.
            first_lsn: the LSN of the first one: where the last piece ended. The first piece may begin anywhere.
            sent_ns: the wall time at which the other server sent them, in nanoseconds: delays count from it, so a
                difference between the two clocks changes none.
            now_ns: the monotonic time, in nanoseconds.

        Returns:
            What ended the reading, as `load`; "end" if all of it was applied.

        Raises:
            ValueError: a piece is missing before this one.
        """
        cdef BinlogWriter journal = self.journal
        cdef size_t at = 0
        cdef Record record
        cdef Fault fault = FAULT_END
        cdef int outcome = 0
        if journal.room.segment_count == 0:
            # Of a run whose beginning was trimmed, it is not known which jobs had ended there.
            self.known_from_id = <uint64_t>-1 if first_lsn else 0
        elif first_lsn != journal.end_lsn:
            raise ValueError(f"the records begin at LSN {first_lsn}, but those before end at {journal.end_lsn}")
        journal.end_lsn = first_lsn
        journal.wall_offset_ns = sent_ns - now_ns
        journal.begun_ns = now_ns
        while at < <size_t>records.shape[0] and outcome == 0:
            fault = read_record(
                <const char *>&records[at], records.shape[0] - at, journal.seed, journal.end_lsn, &record,
            )
            if fault != FAULT_NONE:
                return self.read_end(FAULT_BROKEN if fault == FAULT_END else fault, 0)
            outcome = self.apply_one(&record)
            at += record.size
        return self.read_end(FAULT_END, outcome)

    cdef int apply_one(self, Record *record) noexcept nogil:
        """Apply the record at the end of the run; as `restore`."""
        cdef Segment *segment = self.segment_for(record.size)
        cdef int outcome
        if segment is NULL:
            return -1
        outcome = self.restore(segment, record)
        if outcome:
            return outcome
        segment.used += record.size
        self.journal.room.used_bytes += record.size
        self.journal.end_lsn += record.size
        self.journal.id_limit = max(self.journal.id_limit, self.journal.highest_id + 1)
        while self.journal.room.may_drop(self.journal.needed_lsn):
            if not self.journal.room.drop_oldest():
                return -1
        return 0

    cdef Segment *segment_for(self, uint64_t bytes) noexcept nogil:
        """The last segment, or a new one if `bytes` do not fit into that; NULL without memory."""
        cdef uint64_t size = max(self.journal.room.segment_bytes, bytes + SEGMENT_HEADER_BYTES)
        cdef uint32_t number = 1
        if self.journal.room.segment_count:
            if self.journal.room.current().used + bytes <= self.journal.room.current().size:
                return self.journal.room.current()
            number = self.journal.room.current().number + 1
        self.journal.room.allocated_bytes += size
        return self.journal.room.add_segment(number, size, self.journal.end_lsn)

    cdef str restore_records(self, Segment *segment):
        """Apply all records of a segment. Returns what ended the reading."""
        cdef BinlogWriter journal = self.journal
        cdef Window *window = &self.window
        cdef Fault fault
        cdef Record record
        cdef bint more
        cdef int outcome = 0
        while True:
            fault = read_record(
                window.data + (segment.used - window.begin), window.begin + window.len - segment.used, journal.seed,
                journal.end_lsn, &record,
            )
            if fault != FAULT_NONE:
                with nogil:
                    more = window_reach(window, segment.used)
                if more:
                    continue
                break
            outcome = self.restore(segment, &record)
            if outcome:
                break
            segment.used += record.size
            journal.end_lsn += record.size
        journal.room.used_bytes += segment.used - SEGMENT_HEADER_BYTES
        journal.room.allocated_bytes += segment.size
        # Whatever the binlog says about the next id: no live job may get another one beside it with its id.
        journal.id_limit = max(journal.id_limit, journal.highest_id + 1)
        return self.read_end(fault, outcome)

    cdef str read_end(self, Fault fault, int outcome):
        """What ended the reading, in one word; raises OSError if it was an error of a read."""
        if self.window.error and self.window.error != ENOMEM:
            raise OSError(self.window.error, strerror(self.window.error).decode())
        if outcome > 0:
            return "unknown"
        if outcome < 0 or self.window.error:
            return "memory"
        if fault == FAULT_IMPOSSIBLE:
            return "impossible"
        return "end" if fault == FAULT_END else "newer" if fault == FAULT_NEWER else "broken"

    cdef int restore(self, Segment *segment, Record *record) noexcept nogil:
        """Apply one record. Returns 1 if it changes a job that should be known but is not, -1 without memory.

        A record of an unknown type that a reader may skip changes nothing.
        """
        cdef uint64_t bytes = 0
        cdef uint64_t id = record.number
        cdef uint32_t number = 0
        cdef int outcome = 0
        if record.type == RECORD_PUT or record.type == RECORD_UPDATE:
            id = record.job.id
            job_from_wall(&record.job, self.journal.wall_offset_ns, self.journal.begun_ns)
            if record.type == RECORD_UPDATE:
                outcome = self.journal.jobs.restore_update(&record.job)
            else:
                outcome = self.journal.jobs.restore_put(&record.job, segment.number, self.journal.end_lsn, &number)
                if outcome == 0:
                    outcome = self.put_restored(segment, &record.job, number)
        elif record.type == RECORD_DELETE:
            number = self.journal.jobs.restore_delete(id, &bytes)
            if number:
                self.journal.room.count_out(number, bytes)
            outcome = number == 0
        elif record.type == RECORD_DURABLE:
            self.journal.durable_lsn = max(self.journal.durable_lsn, record.number)
        elif record.type == RECORD_NEXT_ID:
            self.journal.id_limit = record.number
        elif record.type == RECORD_SHED:
            self.journal.needed_lsn = max(self.journal.needed_lsn, record.number)
        elif record.type == RECORD_TUBE:
            return self.restore_settings(segment, &record.tube)
        elif record.type == RECORD_CLEARED:
            self.clear(&record.tube, record.number)
        # A dropped segment may have had the put of a job below the floor, and its delete too.
        return 0 if outcome > 0 and id < self.known_from_id else outcome

    cdef inline int put_restored(self, Segment *segment, JobImage *job, uint32_t before) noexcept nogil:
        """Returns 0, or -1 without memory."""
        if self.journal.room.reserve_counted(&segment.ids, ID_BYTES) < 0:
            return -1
        if before:
            self.journal.room.count_out(before, logged_bytes(job.body_bytes, job.name_bytes))
        self.journal.highest_id = max(self.journal.highest_id, job.id)
        self.journal.room.count_in(segment, job)
        return 0

    cdef int restore_settings(self, Segment *segment, TubeImage *tube) noexcept nogil:
        """Returns 0, or -1 without memory."""
        cdef uint32_t before = 0
        cdef int kept
        tube_from_wall(tube, self.journal.wall_offset_ns, self.journal.begun_ns)
        kept = self.journal.jobs.restore_tube(tube, segment.number, &before)
        self.journal.settings_over(before, tube.name_bytes)
        if kept > 0:
            self.journal.room.count_tube_in(segment, tube.name_bytes)
        return min(kept, 0)

    cdef void clear(self, TubeImage *tube, uint64_t below) noexcept nogil:
        """End all jobs of a tube whose put record is below the LSN `below`.

        A job knows the segment of its put record and the last 32 bits of an LSN, which is exact within a segment.
        """
        cdef Segment *segment = NULL
        cdef Clearing clearing
        cdef uint64_t bytes
        cdef uint32_t number
        for number in range(self.journal.room.segment_count):
            if self.journal.room.segments[number].first_lsn < below:
                segment = self.journal.room.segments[number]
        if segment is NULL:
            return
        memset(&clearing, 0, sizeof(Clearing))
        clearing.name = tube.name
        clearing.name_bytes = tube.name_bytes
        clearing.segment = segment.number
        clearing.first_lsn = <uint32_t>segment.first_lsn
        clearing.lsn = <uint32_t>below
        while True:
            number = self.journal.jobs.restore_clear(&clearing, &bytes)
            if number == 0:
                return
            self.journal.room.count_out(number, bytes)
