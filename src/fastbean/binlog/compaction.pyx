"""Compaction: copies what is live out of the oldest segments, so that they can be dropped, and drops them.

A segment is dropped, oldest first, when nothing live is in it, the records that ended or moved that are as safe as the
policy makes anything, and a shed record says so. `Room` decides when compaction is worth its work.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from fastbean.binlog.record cimport (
    MAX_RECORD_OVERHEAD, MAX_TUBE_BYTES, RECORD_NEXT_ID, RECORD_SHED, append_put, append_tube, job_to_wall,
    tube_to_wall,
)
from fastbean.binlog.room cimport STEP_BYTES, Segment, is_needed, next_id_of
from fastbean.binlog.writer cimport COPY_BYTES, BinlogWriter
from fastbean.engine.journal cimport Compactor, JobImage, TubeImage, logged_bytes


@cython.final
cdef class Compaction(Compactor):
    """Keeps a binlog small.

    Args:
        writer: of the binlog.
    """

    def __cinit__(self, BinlogWriter writer not None):
        self.writer = writer

    cdef bint step(self) noexcept nogil:
        return compact(self.writer)


cdef bint compact(BinlogWriter writer) noexcept nogil:
    """Take one step of compaction; true when another one can follow at once."""
    cdef uint64_t going_bytes = 0
    cdef uint32_t place = 0
    cdef bint copies = False
    shed(writer)
    while place < writer.room.segment_count - 1 and not is_needed(writer.room.segments[place]):
        going_bytes += writer.room.segments[place].used
        place += 1
    if not writer.failed and place < writer.room.segment_count - 1:
        copies = writer.room.too_large(writer.room.used_bytes - going_bytes)
        copies = copies or writer.room.short_of_room(place, going_bytes)
        copies = copies and not writer.room.waits_for_room(place) and copy_some(writer, writer.room.segments[place])
    writer.appended_bytes = 0
    look_at_room(writer, place, going_bytes)
    if going_bytes:
        sync_early(writer)
    return copies


cdef void look_at_room(BinlogWriter writer, uint32_t place, uint64_t going_bytes) noexcept nogil:
    """Compute how little room may be left before commands have to wait.

    While the segment at `place` can be copied, or room is on its way, enough for that copy must stay. Otherwise
    only the end of the last segment stops commands.
    """
    cdef uint64_t copied = 0
    writer.floor_bytes = STEP_BYTES
    writer.room.next_copy_bytes = 0
    if place < writer.room.segment_count - 1:
        writer.room.next_copy_bytes = writer.room.segments[place].live_bytes
        copied = writer.room.next_copy_bytes + writer.room.largest_bytes
        if writer.room.asked or going_bytes or writer.room.free_bytes() >= copied:
            writer.floor_bytes += copied
    writer.tight = writer.is_tight()


cdef void sync_early(BinlogWriter writer) noexcept nogil:
    """Begin a sync early if the binlog is too large, because segments wait for it."""
    if writer.files is None or writer.sync_every_ns < 0 or writer.is_syncing() or writer.sink.busy or not (
        writer.tight or writer.room.pass_lsn or writer.room.too_large(writer.room.used_bytes)
    ):
        return
    writer.write()
    if not writer.failed and not writer.sink.busy:
        writer.begin_sync()


cdef bint copy_some(BinlogWriter writer, Segment *segment) noexcept nogil:
    """Copy jobs whose put record is in this segment, in their present state, to the end of the binlog.

    Returns whether another step can follow at once; there may be no room for the next job.
    """
    cdef uint64_t end = writer.end_lsn + max(<uint64_t>COPY_BYTES, 4 * writer.appended_bytes)
    cdef JobImage job
    cdef uint64_t id, bytes, before_id
    cdef size_t before, start
    while segment.copied < segment.ids.len and writer.end_lsn < end and not writer.failed:
        before = segment.copied
        before_id = segment.copied_id
        id = next_id_of(segment)
        if not writer.jobs.image_of(id, segment.number, &job):
            continue
        bytes = <uint64_t>job.body_bytes + MAX_RECORD_OVERHEAD
        if not has_room_to_copy(writer, bytes):
            segment.copied = before
            segment.copied_id = before_id
            return False
        start = writer.begin_record(bytes)
        job_to_wall(&job, writer.wall_offset_ns)
        append_put(&writer.room.pending.bytes, &job, writer.seed, writer.end_lsn)
        writer.end_record(start, False)
        writer.room.count_out(segment.number, logged_bytes(job.body_bytes, job.name_bytes))
        writer.room.count_in(writer.room.current(), &job)
        writer.jobs.moved(id, writer.room.current().number)
        writer.records_migrated += 1
    return segment.copied < segment.ids.len or copy_settings(writer, segment, end)


cdef bint copy_settings(BinlogWriter writer, Segment *segment, uint64_t end_lsn) noexcept nogil:
    """The same for settings of tubes that have to be kept, until the binlog reaches `end_lsn`."""
    cdef TubeImage tube
    cdef size_t start
    while writer.end_lsn < end_lsn and not writer.failed and writer.jobs.oldest_settings(segment.number, &tube):
        if not has_room_to_copy(writer, MAX_TUBE_BYTES):
            return False
        start = writer.begin_record(MAX_TUBE_BYTES)
        tube_to_wall(&tube, writer.wall_offset_ns)
        append_tube(&writer.room.pending.bytes, &tube, writer.seed, writer.end_lsn)
        writer.end_record(start, False)
        writer.room.count_tube_out(segment.number, tube.name_bytes)
        writer.room.count_tube_in(writer.room.current(), tube.name_bytes)
        writer.jobs.settings_moved(writer.room.current().number)
        writer.records_migrated += 1
    return True


cdef bint has_room_to_copy(BinlogWriter writer, uint64_t bytes) noexcept nogil:
    """Whether a copy of at most `bytes` can be written now; if not, ask for room."""
    if writer.room.fits(bytes) and writer.room.make_memory(bytes) == 0:
        return True
    # On a full disk this is repeated with every step; ask only once in RETRY_NS.
    if not writer.room.refused and not writer.room.fits(bytes):
        writer.room.ask(bytes)
    return False


cdef void shed(BinlogWriter writer) noexcept nogil:
    """Drop the oldest segments that are no longer needed.

    A shed record comes first: without it, a dropped segment could not be distinguished from a lost one.
    """
    cdef uint64_t safe_lsn = writer.sink.written_lsn if writer.sync_every_ns < 0 else writer.durable_lsn
    cdef uint32_t place = 0
    while place < writer.room.segment_count - 1 and not is_needed(writer.room.segments[place]):
        place += 1
    if writer.room.segments[place].first_lsn > writer.needed_lsn:
        writer.needed_lsn = writer.room.segments[place].first_lsn
        if not writer.room.has_files:
            # The header of a file has the limit of the ids. Without files, what remains of the run has to say it.
            writer.number_record(RECORD_NEXT_ID, max(writer.id_limit, writer.ids_limit), False)
        writer.number_record(RECORD_SHED, writer.needed_lsn, False)
        writer.shed_lsn = writer.end_lsn
        if writer.sync_every_ns < 0:
            writer.room.sync_before_removal = writer.room.current().number
    while (
        writer.room.may_drop(writer.needed_lsn)
        and writer.shed_lsn <= safe_lsn and writer.room.segments[0].dead_lsn <= safe_lsn
        # The next segment's header has the limit of the ids: it must be as safe as what is dropped.
        and writer.room.segments[1].first_lsn < safe_lsn
        and writer.room.drop_oldest()
    ):
        writer.sink.trim(writer.room.segments[0].first_lsn)
