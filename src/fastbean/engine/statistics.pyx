"""The texts of stats, stats-tube and stats-job.

Keys, their order and their quotes are those of beanstalkd 1.13; keys that only fastbean has come after them. Each text
costs O(1): everything in it is counted as it happens.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from fastbean.base.buffer cimport (
    DIGITS, Buffer, buffer_append, buffer_append_number, buffer_append_text, buffer_reserve, write_number,
)
from fastbean.engine.client cimport INPUT_LIMIT, OUTPUT_LIMIT, STEPS_PER_ITERATION, begin_text
from fastbean.engine.commands cimport Engine
from fastbean.engine.journal cimport BinlogFigures
from fastbean.engine.job cimport JOB_DELAYED, JOB_READY, JOB_RESERVED, JOB_RETURNING, Job, job_table_get
from fastbean.protocol.commands cimport (
    OP_BURY, OP_DELETE, OP_IGNORE, OP_KICK, OP_KICK_JOB, OP_LIST_TUBE_USED, OP_LIST_TUBES, OP_LIST_TUBES_WATCHED,
    OP_PAUSE_TUBE, OP_PEEK, OP_PEEK_BURIED, OP_PEEK_DELAYED, OP_PEEK_READY, OP_PUT, OP_RELEASE, OP_RESERVE,
    OP_RESERVE_JOB, OP_RESERVE_WITH_TIMEOUT, OP_STATS, OP_STATS_JOB, OP_STATS_TUBE, OP_TOUCH, OP_USE, OP_WATCH,
)
from fastbean.engine.state cimport EFFORT_PER_ITERATION
from fastbean.engine.tube cimport Tube, tube_name

cdef extern from "<sys/resource.h>" nogil:
    cdef struct timeval:
        long tv_sec
        long tv_usec
    cdef struct rusage:
        timeval ru_utime
        timeval ru_stime
    int RUSAGE_SELF
    int getrusage(int who, rusage *usage)

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef enum:
    MICROSECOND_DIGITS = 6
    STATS_BYTES = 2048                  # the initial capacity; most texts then need no reallocation


cdef void put_number(Buffer *text, const char *key, uint64_t number) noexcept nogil:
    """Write one line. Most of each text is made of these, so each is written in one piece."""
    cdef size_t key_bytes = strlen(key)
    cdef char *end
    if text.failed or buffer_reserve(text, key_bytes + 2 + DIGITS + 1) < 0:
        return
    end = text.data + text.len
    memcpy(end, key, key_bytes)
    end += key_bytes
    end[0] = c':'
    end[1] = c' '
    end = write_number(end + 2, number)
    end[0] = c'\n'
    text.len = end + 1 - text.data


cdef inline void put_signed(Buffer *text, const char *key, int64_t number) noexcept nogil:
    buffer_append_text(text, key)
    buffer_append(text, b": ", 2)
    if number < 0:
        buffer_append(text, b"-", 1)
        number = -number
    buffer_append_number(text, <uint64_t>number)
    buffer_append(text, b"\n", 1)


cdef inline void put_word(Buffer *text, const char *key, const char *word) noexcept nogil:
    buffer_append_text(text, key)
    buffer_append(text, b": ", 2)
    buffer_append_text(text, word)
    buffer_append(text, b"\n", 1)


cdef inline void put_quoted(Buffer *text, const char *key, const char *word) noexcept nogil:
    # A tube's name has no characters that need an escape; for other words, see `identity.quoted`.
    buffer_append_text(text, key)
    buffer_append(text, b": \"", 3)
    buffer_append_text(text, word)
    buffer_append(text, b"\"\n", 2)


cdef void put_time(Buffer *text, const char *key, timeval *time) noexcept nogil:
    """Write seconds with six decimals."""
    cdef uint32_t digits = MICROSECOND_DIGITS
    cdef long scale = 1000000
    buffer_append_text(text, key)
    buffer_append(text, b": ", 2)
    buffer_append_number(text, <uint64_t>time.tv_sec)
    buffer_append(text, b".", 1)
    while digits:
        digits -= 1
        scale //= 10
        buffer_append_number(text, <uint64_t>(time.tv_usec // scale % 10))
    buffer_append(text, b"\n", 1)


cdef void put_commands(Engine engine, Buffer *text) noexcept:
    cdef uint64_t *commands = engine.commands
    put_number(text, b"cmd-put", commands[<int>OP_PUT])
    put_number(text, b"cmd-peek", commands[<int>OP_PEEK])
    put_number(text, b"cmd-peek-ready", commands[<int>OP_PEEK_READY])
    put_number(text, b"cmd-peek-delayed", commands[<int>OP_PEEK_DELAYED])
    put_number(text, b"cmd-peek-buried", commands[<int>OP_PEEK_BURIED])
    put_number(text, b"cmd-reserve", commands[<int>OP_RESERVE])
    put_number(text, b"cmd-reserve-with-timeout", commands[<int>OP_RESERVE_WITH_TIMEOUT])
    put_number(text, b"cmd-delete", commands[<int>OP_DELETE])
    put_number(text, b"cmd-release", commands[<int>OP_RELEASE])
    put_number(text, b"cmd-use", commands[<int>OP_USE])
    put_number(text, b"cmd-watch", commands[<int>OP_WATCH])
    put_number(text, b"cmd-ignore", commands[<int>OP_IGNORE])
    put_number(text, b"cmd-bury", commands[<int>OP_BURY])
    put_number(text, b"cmd-kick", commands[<int>OP_KICK])
    put_number(text, b"cmd-touch", commands[<int>OP_TOUCH])
    put_number(text, b"cmd-stats", commands[<int>OP_STATS])
    put_number(text, b"cmd-stats-job", commands[<int>OP_STATS_JOB])
    put_number(text, b"cmd-stats-tube", commands[<int>OP_STATS_TUBE])
    put_number(text, b"cmd-list-tubes", commands[<int>OP_LIST_TUBES])
    put_number(text, b"cmd-list-tube-used", commands[<int>OP_LIST_TUBE_USED])
    put_number(text, b"cmd-list-tubes-watched", commands[<int>OP_LIST_TUBES_WATCHED])
    put_number(text, b"cmd-pause-tube", commands[<int>OP_PAUSE_TUBE])


cdef void put_process(Buffer *text) noexcept:
    cdef rusage usage
    getrusage(RUSAGE_SELF, &usage)
    put_time(text, b"rusage-utime", &usage.ru_utime)
    put_time(text, b"rusage-stime", &usage.ru_stime)


cdef void stats_text(Engine engine, Buffer *text, int64_t now_ns) noexcept:
    """Write the statistics of the server."""
    cdef BinlogFigures log
    memset(&log, 0, sizeof(log))
    engine.journal.figures_of(&log)
    buffer_reserve(text, STATS_BYTES)
    begin_text(text)
    put_number(text, b"current-jobs-urgent", engine.counts.urgent)
    put_number(text, b"current-jobs-ready", engine.counts.ready)
    put_number(text, b"current-jobs-reserved", engine.counts.reserved)
    put_number(text, b"current-jobs-delayed", engine.counts.delayed)
    put_number(text, b"current-jobs-buried", engine.counts.buried)
    put_commands(engine, text)
    put_number(text, b"job-timeouts", engine.counts.timeouts)
    put_number(text, b"total-jobs", engine.counts.total_jobs)
    put_number(text, b"max-job-size", engine.max_job_size)
    put_number(text, b"current-tubes", engine.tubes.count)
    put_number(text, b"current-connections", engine.counts.connections)
    put_number(text, b"current-producers", engine.counts.producers)
    put_number(text, b"current-workers", engine.counts.workers)
    put_number(text, b"current-waiting", engine.counts.waiting)
    put_number(text, b"total-connections", engine.counts.total_connections)
    put_number(text, b"pid", <uint64_t>getpid())
    put_quoted(text, b"version", engine.version)
    put_process(text)
    put_signed(text, b"uptime", (now_ns - engine.started_ns) // 1000000000)
    put_number(text, b"binlog-oldest-index", log.oldest)
    put_number(text, b"binlog-current-index", log.current)
    put_number(text, b"binlog-records-migrated", log.migrated)
    put_number(text, b"binlog-records-written", log.written)
    put_number(text, b"binlog-max-size", engine.binlog_max_size)
    put_word(text, b"draining", b"true" if engine.draining else b"false")
    put_word(text, b"id", engine.instance_id)
    put_quoted(text, b"hostname", engine.hostname)
    put_quoted(text, b"os", engine.os)
    put_quoted(text, b"platform", engine.platform)
    if engine.has_binlog:
        put_binlog(text, &log)
    put_more_commands(engine, text)
    put_limits(engine, text)
    put_quoted(text, b"fastbean-version", engine.fastbean_version)


cdef void put_binlog(Buffer *text, BinlogFigures *log) noexcept:
    """Write what only fastbean reports about its binlog."""
    put_number(text, b"binlog-bytes-live", log.live_bytes)
    put_number(text, b"binlog-bytes-on-disk", log.disk_bytes)
    put_number(text, b"binlog-syncs", log.syncs)
    put_number(text, b"binlog-sync-last-us", log.sync_last_us)
    put_number(text, b"binlog-sync-longest-us", log.sync_longest_us)
    put_number(text, b"binlog-write-last-us", log.write_last_us)
    put_number(text, b"binlog-write-longest-us", log.write_longest_us)


cdef void put_more_commands(Engine engine, Buffer *text) noexcept:
    """Write the commands that beanstalkd does not count."""
    put_number(text, b"cmd-reserve-job", engine.commands[<int>OP_RESERVE_JOB])
    put_number(text, b"cmd-kick-job", engine.commands[<int>OP_KICK_JOB])


cdef void put_limits(Engine engine, Buffer *text) noexcept:
    """Write the limits of the server and its clients, and how often each was reached. 0 means no limit."""
    cdef uint64_t max_memory = engine.memory.limit_bytes
    put_number(text, b"memory-jobs", engine.memory.job_bytes)
    put_number(text, b"memory-buffers", engine.memory.buffer_bytes + engine.journal.memory_bytes)
    put_number(text, b"max-memory", 0 if max_memory == UINT64_MAX else max_memory)
    put_number(text, b"max-memory-hits", engine.hits.memory)
    put_number(text, b"max-connections", engine.max_connections)
    put_number(text, b"max-connections-hits", engine.hits.connections)
    put_number(text, b"max-tubes", engine.max_tubes)
    put_number(text, b"max-tubes-hits", engine.hits.tubes)
    put_number(text, b"max-job-size-hits", engine.hits.job_size)
    put_number(text, b"binlog-full-hits", engine.hits.binlog_space)
    put_number(text, b"max-client-input", INPUT_LIMIT)
    put_number(text, b"max-client-input-hits", engine.hits.client_input)
    put_number(text, b"max-client-output", OUTPUT_LIMIT)
    put_number(text, b"max-client-output-hits", engine.hits.client_output)
    put_number(text, b"max-client-steps", STEPS_PER_ITERATION)
    put_number(text, b"max-client-steps-hits", engine.hits.client_steps)
    put_number(text, b"max-iteration-effort", EFFORT_PER_ITERATION)
    put_number(text, b"max-iteration-effort-hits", engine.hits.iteration_effort)


cdef void stats_tube_text(Tube *tube, Buffer *text, int64_t now_ns) noexcept:
    """Write the statistics of one tube, except for the last line, which `begin_oldest` adds."""
    begin_text(text)
    put_quoted(text, b"name", tube_name(tube))
    put_number(text, b"current-jobs-urgent", tube.urgent)
    put_number(text, b"current-jobs-ready", tube.ready.len)
    put_number(text, b"current-jobs-reserved", tube.reserved)
    put_number(text, b"current-jobs-delayed", tube.delayed.len)
    put_number(text, b"current-jobs-buried", tube.buried.len)
    put_number(text, b"total-jobs", tube.total_jobs)
    put_number(text, b"current-using", tube.using)
    put_number(text, b"current-watching", tube.watching)
    put_number(text, b"current-waiting", tube.waiting)
    put_number(text, b"cmd-delete", tube.deletes)
    put_number(text, b"cmd-pause-tube", tube.pauses)
    put_signed(text, b"pause", tube.pause_ns // 1000000000)
    put_signed(text, b"pause-time-left", (tube.unpause_at_ns - now_ns) // 1000000000 if tube.pause_ns else 0)
    put_number(text, b"total-enqueued", tube.enqueued)
    put_number(text, b"total-finished", tube.finished)
    put_number(text, b"current-bytes", tube.body_bytes)


cdef inline const char *state_word(Job *job) noexcept nogil:
    if job.state == JOB_READY:
        return b"ready"
    if job.state == JOB_RESERVED or job.state == JOB_RETURNING:
        return b"reserved"
    return b"delayed" if job.state == JOB_DELAYED else b"buried"


cdef bint stats_job_text(Engine engine, uint64_t id, Buffer *text, int64_t now_ns) noexcept:
    """Write the statistics of one job; false when there is no such job."""
    cdef Job *job = job_table_get(&engine.jobs, id)
    cdef int64_t left_ns = 0
    if job is NULL:
        return False
    if job.state == JOB_RESERVED or job.state == JOB_DELAYED:
        left_ns = engine.deadline_of(job) - now_ns
    begin_text(text)
    put_number(text, b"id", id)
    put_quoted(text, b"tube", tube_name(engine.tube_of(job)))
    put_word(text, b"state", state_word(job))
    put_number(text, b"pri", job.pri)
    put_signed(text, b"age", (now_ns - job.created_ns) // 1000000000)
    put_number(text, b"delay", job.delay_s)
    put_number(text, b"ttr", job.ttr_s)
    put_signed(text, b"time-left", left_ns // 1000000000)
    put_number(text, b"file", job.segment)
    put_number(text, b"reserves", job.reserves)
    put_number(text, b"timeouts", job.timeouts)
    put_number(text, b"releases", job.releases)
    put_number(text, b"buries", job.buries)
    put_number(text, b"kicks", job.kicks)
    return True
