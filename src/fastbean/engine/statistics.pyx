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
from fastbean.engine.journal cimport BinlogFigures
from fastbean.engine.job cimport JOB_DELAYED, JOB_READY, JOB_RESERVED, JOB_RETURNING, Job, job_table_get
from fastbean.protocol.commands cimport COUNTER_OF_BEANSTALKD, COUNTER_OF_FASTBEAN, Counter, words, words_count
from fastbean.engine.state cimport EFFORT_PER_ITERATION, State
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


cdef void put_commands(State state, Buffer *text, Counter counter) noexcept:
    cdef uint32_t number
    for number in range(1, words_count + 1):
        if words[number].counter == counter:
            put_number(text, words[number].key, state.commands[number])


cdef void put_process(Buffer *text) noexcept:
    cdef rusage usage
    getrusage(RUSAGE_SELF, &usage)
    put_time(text, b"rusage-utime", &usage.ru_utime)
    put_time(text, b"rusage-stime", &usage.ru_stime)


cdef void stats_text(State state, Buffer *text, int64_t now_ns) noexcept:
    """Write the statistics of the server."""
    cdef BinlogFigures log
    memset(&log, 0, sizeof(log))
    state.journal.figures_of(&log)
    buffer_reserve(text, STATS_BYTES)
    begin_text(text)
    put_number(text, b"current-jobs-urgent", state.counts.urgent)
    put_number(text, b"current-jobs-ready", state.counts.ready)
    put_number(text, b"current-jobs-reserved", state.counts.reserved)
    put_number(text, b"current-jobs-delayed", state.counts.delayed)
    put_number(text, b"current-jobs-buried", state.counts.buried)
    put_commands(state, text, COUNTER_OF_BEANSTALKD)
    put_number(text, b"job-timeouts", state.counts.timeouts)
    put_number(text, b"total-jobs", state.counts.total_jobs)
    put_number(text, b"max-job-size", state.max_job_size)
    put_number(text, b"current-tubes", state.tubes.count)
    put_number(text, b"current-connections", state.counts.connections)
    put_number(text, b"current-producers", state.counts.producers)
    put_number(text, b"current-workers", state.counts.workers)
    put_number(text, b"current-waiting", state.counts.waiting)
    put_number(text, b"total-connections", state.counts.total_connections)
    put_number(text, b"pid", <uint64_t>getpid())
    put_quoted(text, b"version", state.version)
    put_process(text)
    put_signed(text, b"uptime", (now_ns - state.started_ns) // 1000000000)
    put_number(text, b"binlog-oldest-index", log.oldest)
    put_number(text, b"binlog-current-index", log.current)
    put_number(text, b"binlog-records-migrated", log.migrated)
    put_number(text, b"binlog-records-written", log.written)
    put_number(text, b"binlog-max-size", state.binlog_max_size)
    put_word(text, b"draining", b"true" if state.draining else b"false")
    put_word(text, b"id", state.instance_id)
    put_quoted(text, b"hostname", state.hostname)
    put_quoted(text, b"os", state.os)
    put_quoted(text, b"platform", state.platform)
    if state.has_binlog:
        put_binlog(text, &log)
    put_more_commands(state, text)
    put_limits(state, text)
    put_quoted(text, b"fastbean-version", state.fastbean_version)


cdef void put_binlog(Buffer *text, BinlogFigures *log) noexcept:
    """Write what only fastbean reports about its binlog."""
    put_number(text, b"binlog-bytes-live", log.live_bytes)
    put_number(text, b"binlog-bytes-on-disk", log.disk_bytes)
    put_number(text, b"binlog-syncs", log.syncs)
    put_number(text, b"binlog-sync-last-us", log.sync_last_us)
    put_number(text, b"binlog-sync-longest-us", log.sync_longest_us)
    put_number(text, b"binlog-write-last-us", log.write_last_us)
    put_number(text, b"binlog-write-longest-us", log.write_longest_us)


cdef void put_more_commands(State state, Buffer *text) noexcept:
    """Write the commands that beanstalkd does not count."""
    put_commands(state, text, COUNTER_OF_FASTBEAN)


cdef void put_limits(State state, Buffer *text) noexcept:
    """Write the limits of the server and its clients, and how often each was reached. 0 means no limit."""
    cdef uint64_t max_memory = state.memory.limit_bytes
    put_number(text, b"memory-jobs", state.memory.job_bytes)
    put_number(text, b"memory-buffers", state.memory.buffer_bytes + state.journal.memory_bytes)
    put_number(text, b"max-memory", 0 if max_memory == UINT64_MAX else max_memory)
    put_number(text, b"max-memory-hits", state.hits.memory)
    put_number(text, b"max-connections", state.max_connections)
    put_number(text, b"max-connections-hits", state.hits.connections)
    put_number(text, b"max-tubes", state.max_tubes)
    put_number(text, b"max-tubes-hits", state.hits.tubes)
    put_number(text, b"max-job-size-hits", state.hits.job_size)
    put_number(text, b"binlog-full-hits", state.hits.binlog_space)
    put_number(text, b"max-client-input", INPUT_LIMIT)
    put_number(text, b"max-client-input-hits", state.hits.client_input)
    put_number(text, b"max-client-output", OUTPUT_LIMIT)
    put_number(text, b"max-client-output-hits", state.hits.client_output)
    put_number(text, b"max-client-steps", STEPS_PER_ITERATION)
    put_number(text, b"max-client-steps-hits", state.hits.client_steps)
    put_number(text, b"max-iteration-effort", EFFORT_PER_ITERATION)
    put_number(text, b"max-iteration-effort-hits", state.hits.iteration_effort)


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


cdef void stats_job_text(State state, Job *job, uint64_t id, Buffer *text, int64_t now_ns) noexcept:
    """Write the statistics of one job."""
    cdef int64_t left_ns = 0
    if job.state == JOB_RESERVED or job.state == JOB_DELAYED:
        left_ns = state.deadline_of(job) - now_ns
    begin_text(text)
    put_number(text, b"id", id)
    put_quoted(text, b"tube", tube_name(state.tube_of(job)))
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
