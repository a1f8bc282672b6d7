"""The tables of statistics, of the server, a tube and a job: all texts and pages are made from them.

The functions that end in `_rows` are the tables. One row has:

- the key, as `stats`, `stats-tube`, `stats-job` and JSON show it;
- its kind, GAUGE, COUNTER or TEXT, and its unit, if it is a quantity;
- whether it is one of beanstalkd's (the keys, order and quotes of version 1.13) or ours. Ours come after beanstalkd's;
- the value;
- its metric for Prometheus, or NULL. The names are those of beanstalkd-rs where it has one; ours begin with fastbean_;
- its help text, a sentence.

To add a figure, add its row; metrics with a new name and labels need a line in the dict of families, too. `make pages`
writes docs/statistics.md from the tables. The order of the rows is that of YAML and JSON.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastbean.base.client_limits cimport INPUT_LIMIT, OUTPUT_LIMIT, STEPS_PER_ITERATION
from fastbean.engine.figure cimport (
    BEANSTALKD, BYTES, CLIENTS, COMMANDS, COUNTER, FASTBEAN, FASTBEAN_BINLOG, GAUGE, JOBS, MICROSECONDS, NO_UNIT,
    RECORDS, SECONDS, STEPS, SYNCS, TEXT, TIMES, TUBES, Origin, Sheet, Table, begin_sheet, begin_table, decimal,
    finish_table, flag, number, quoted, rows_of, signed, word,
)
from fastbean.engine.job cimport JOB_DELAYED, JOB_READY, JOB_RESERVED, JOB_RETURNING, Job
from fastbean.engine.journal cimport BinlogFigures
from fastbean.engine.state cimport EFFORT_PER_ITERATION, State
from fastbean.engine.tube cimport Tube, tube_name
from fastbean.protocol.commands cimport (
    COUNTER_OF_BEANSTALKD, COUNTER_OF_FASTBEAN, MAX_COMMANDS, Counter, words, words_count,
)

import importlib

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
    NS_IN_SECOND = 1000000000
    US_IN_SECOND = 1000000

cdef struct CommandFigure:              # what the row of a command needs beside its counter
    const char *key
    const char *metric
    const char *help

cdef Table server_table
cdef Table tube_table
cdef Table job_table
cdef CommandFigure[<int>MAX_COMMANDS] command_figures   # by the number of the command

_command_texts = []                     # owns the texts of `command_figures`

# Metrics with labels have several rows, and so a help text of their own.
_FAMILIES = {
    b"beanstalkd_current_jobs": b"Jobs by state; the urgent ones are counted among the ready ones, too.",
    b"beanstalkd_commands_total": b"Well-formed commands, by their word.",
    b"beanstalkd_cpu_seconds_total": b"Processor time of the process, by mode.",
    b"beanstalkd_build_info": b"The version of the protocol.",
    b"beanstalkd_tube_current_jobs": b"Jobs of a tube by state; the urgent ones are counted among the ready ones, too.",
    b"beanstalkd_tube_commands_total": b"Deleted jobs and pauses of a tube, by the word of the command.",
    b"fastbean_server_info": b"What names the server, its process and its machine.",
    b"fastbean_binlog_bytes": b"Size of the binlog: of the records of live jobs, and of its files on the disk.",
    b"fastbean_memory_bytes": b"Memory that --max-memory counts, by use.",
    b"fastbean_limit_hits_total": b"How often a limit was reached, by limit.",
}


# The table of the server

cdef void server_rows(Sheet *sheet, State state, int64_t now_ns) noexcept nogil:
    cdef BinlogFigures binlog
    memset(&binlog, 0, sizeof(binlog))
    state.journal.figures_of(&binlog)
    job_count_rows(sheet, state)
    command_count_rows(sheet, state, COUNTER_OF_BEANSTALKD, BEANSTALKD)
    client_rows(sheet, state)
    process_rows(sheet, state, now_ns)
    binlog_rows(sheet, state, &binlog)
    identity_rows(sheet, state)
    our_binlog_rows(sheet, &binlog)
    command_count_rows(sheet, state, COUNTER_OF_FASTBEAN, FASTBEAN)
    limit_rows(sheet, state)
    client_limit_rows(sheet, state)
    quoted(sheet, b"fastbean-version", FASTBEAN, state.fastbean_version.quoted, state.fastbean_version.plain,
           b"fastbean_server_info{version}", b"The version of fastbean.")


cdef void job_count_rows(Sheet *sheet, State state) noexcept nogil:
    number(sheet, b"current-jobs-urgent", GAUGE, JOBS, BEANSTALKD, state.counts.urgent,
           b"beanstalkd_current_jobs{state=\"urgent\"}", b"Ready jobs with a priority below 1024.")
    number(sheet, b"current-jobs-ready", GAUGE, JOBS, BEANSTALKD, state.counts.ready,
           b"beanstalkd_current_jobs{state=\"ready\"}", b"Jobs that wait for a worker, the urgent ones included.")
    number(sheet, b"current-jobs-reserved", GAUGE, JOBS, BEANSTALKD, state.counts.reserved,
           b"beanstalkd_current_jobs{state=\"reserved\"}", b"Jobs that clients have reserved.")
    number(sheet, b"current-jobs-delayed", GAUGE, JOBS, BEANSTALKD, state.counts.delayed,
           b"beanstalkd_current_jobs{state=\"delayed\"}", b"Jobs that become ready when their delay is over.")
    number(sheet, b"current-jobs-buried", GAUGE, JOBS, BEANSTALKD, state.counts.buried,
           b"beanstalkd_current_jobs{state=\"buried\"}", b"Jobs that wait until a client kicks or deletes them.")


cdef void command_count_rows(Sheet *sheet, State state, Counter counter, Origin origin) noexcept nogil:
    cdef CommandFigure *each
    cdef uint32_t command
    for command in range(1, words_count + 1):
        if words[command].counter == counter:
            each = &command_figures[command]
            number(sheet, each.key, COUNTER, COMMANDS, origin, state.commands[command], each.metric, each.help)


cdef void client_rows(Sheet *sheet, State state) noexcept nogil:
    number(sheet, b"job-timeouts", COUNTER, TIMES, BEANSTALKD, state.counts.timeouts,
           b"beanstalkd_job_timeouts_total", b"Reservations that ended because the ttr of the job was over.")
    number(sheet, b"total-jobs", COUNTER, JOBS, BEANSTALKD, state.counts.total_jobs,
           b"beanstalkd_jobs_total", b"Jobs that were put.")
    number(sheet, b"max-job-size", GAUGE, BYTES, BEANSTALKD, state.max_job_size,
           b"beanstalkd_max_job_size_bytes", b"The largest body that a put may have (-z).")
    number(sheet, b"current-tubes", GAUGE, TUBES, BEANSTALKD, state.tubes.count,
           b"beanstalkd_current_tubes", b"Tubes that exist.")
    number(sheet, b"current-connections", GAUGE, CLIENTS, BEANSTALKD, state.counts.connections,
           b"beanstalkd_current_connections", b"Clients that are connected.")
    number(sheet, b"current-producers", GAUGE, CLIENTS, BEANSTALKD, state.counts.producers,
           b"beanstalkd_current_producers", b"Connected clients that have sent a put.")
    number(sheet, b"current-workers", GAUGE, CLIENTS, BEANSTALKD, state.counts.workers,
           b"beanstalkd_current_workers", b"Connected clients that have sent a reserve.")
    number(sheet, b"current-waiting", GAUGE, CLIENTS, BEANSTALKD, state.counts.waiting,
           b"beanstalkd_current_waiting", b"Clients that wait in a reserve.")
    number(sheet, b"total-connections", COUNTER, CLIENTS, BEANSTALKD, state.counts.total_connections,
           b"beanstalkd_connections_total", b"Clients that have connected.")


cdef inline uint64_t microseconds(timeval *time) noexcept nogil:
    return <uint64_t>time.tv_sec * US_IN_SECOND + <uint64_t>time.tv_usec


cdef void process_rows(Sheet *sheet, State state, int64_t now_ns) noexcept nogil:
    cdef rusage usage
    getrusage(RUSAGE_SELF, &usage)
    number(sheet, b"pid", TEXT, NO_UNIT, BEANSTALKD, <uint64_t>getpid(),
           b"fastbean_server_info{pid}", b"The id of the process.")
    quoted(sheet, b"version", BEANSTALKD, state.version.quoted, state.version.plain,
           b"beanstalkd_build_info{version}", b"The version of beanstalkd whose protocol the server has.")
    decimal(sheet, b"rusage-utime", COUNTER, SECONDS, BEANSTALKD, microseconds(&usage.ru_utime),
            b"beanstalkd_cpu_seconds_total{mode=\"user\"}", b"Processor time of the process in user mode.")
    decimal(sheet, b"rusage-stime", COUNTER, SECONDS, BEANSTALKD, microseconds(&usage.ru_stime),
            b"beanstalkd_cpu_seconds_total{mode=\"system\"}", b"Processor time of the process in the kernel.")
    signed(sheet, b"uptime", GAUGE, SECONDS, BEANSTALKD, (now_ns - state.started_ns) // NS_IN_SECOND,
           b"beanstalkd_uptime_seconds", b"Time since the start of the server.")


cdef void binlog_rows(Sheet *sheet, State state, BinlogFigures *binlog) noexcept nogil:
    number(sheet, b"binlog-oldest-index", GAUGE, NO_UNIT, BEANSTALKD, binlog.oldest,
           b"beanstalkd_binlog_oldest_index", b"The number of the oldest file of the binlog; 0 without a binlog.")
    number(sheet, b"binlog-current-index", GAUGE, NO_UNIT, BEANSTALKD, binlog.current,
           b"beanstalkd_binlog_current_index", b"The number of the file that is being written; 0 without a binlog.")
    number(sheet, b"binlog-records-migrated", COUNTER, RECORDS, BEANSTALKD, binlog.migrated,
           b"beanstalkd_binlog_records_migrated_total", b"Records that compaction has copied.")
    number(sheet, b"binlog-records-written", COUNTER, RECORDS, BEANSTALKD, binlog.written,
           b"beanstalkd_binlog_records_written_total", b"Records that were written.")
    number(sheet, b"binlog-max-size", GAUGE, BYTES, BEANSTALKD, state.binlog_max_size,
           b"beanstalkd_binlog_max_size_bytes", b"The size of one file of the binlog (-s).")


cdef void identity_rows(Sheet *sheet, State state) noexcept nogil:
    flag(sheet, b"draining", GAUGE, NO_UNIT, BEANSTALKD, state.draining,
         b"beanstalkd_draining", b"Whether the server refuses puts (SIGUSR1); as a metric 1 or 0.")
    word(sheet, b"id", BEANSTALKD, state.instance_id.plain,
         b"fastbean_server_info{id}", b"16 hexadecimal digits, drawn at the start of the server.")
    quoted(sheet, b"hostname", BEANSTALKD, state.hostname.quoted, state.hostname.plain,
           b"fastbean_server_info{hostname}", b"The name of the machine.")
    quoted(sheet, b"os", BEANSTALKD, state.os.quoted, state.os.plain,
           b"fastbean_server_info{os}", b"The version of the operating system.")
    quoted(sheet, b"platform", BEANSTALKD, state.platform.quoted, state.platform.plain,
           b"fastbean_server_info{platform}", b"The kind of machine.")


cdef void our_binlog_rows(Sheet *sheet, BinlogFigures *binlog) noexcept nogil:
    number(sheet, b"binlog-bytes-live", GAUGE, BYTES, FASTBEAN_BINLOG, binlog.live_bytes,
           b"fastbean_binlog_bytes{kind=\"live\"}", b"Size of the records of live jobs.")
    number(sheet, b"binlog-bytes-on-disk", GAUGE, BYTES, FASTBEAN_BINLOG, binlog.disk_bytes,
           b"fastbean_binlog_bytes{kind=\"disk\"}", b"Size of all files of the binlog.")
    number(sheet, b"binlog-syncs", COUNTER, SYNCS, FASTBEAN_BINLOG, binlog.syncs,
           b"fastbean_binlog_syncs_total", b"Syncs that replies may wait for.")
    number(sheet, b"binlog-sync-last-us", GAUGE, MICROSECONDS, FASTBEAN_BINLOG, binlog.sync_last_us,
           b"fastbean_binlog_sync_last_seconds", b"How long the last sync took.")
    number(sheet, b"binlog-sync-longest-us", GAUGE, MICROSECONDS, FASTBEAN_BINLOG, binlog.sync_longest_us,
           b"fastbean_binlog_sync_longest_seconds", b"How long the longest sync since the start took.")
    number(sheet, b"binlog-write-last-us", GAUGE, MICROSECONDS, FASTBEAN_BINLOG, binlog.write_last_us,
           b"fastbean_binlog_write_last_seconds", b"How long the last write took.")
    number(sheet, b"binlog-write-longest-us", GAUGE, MICROSECONDS, FASTBEAN_BINLOG, binlog.write_longest_us,
           b"fastbean_binlog_write_longest_seconds", b"How long the longest write since the start took.")


cdef inline uint64_t or_none(uint64_t limit_bytes) noexcept nogil:
    return 0 if limit_bytes == UINT64_MAX else limit_bytes


cdef void limit_rows(Sheet *sheet, State state) noexcept nogil:
    number(sheet, b"memory-jobs", GAUGE, BYTES, FASTBEAN, state.memory.job_bytes,
           b"fastbean_memory_bytes{kind=\"jobs\"}", b"Memory of jobs and of their entries in the indexes.")
    number(sheet, b"memory-buffers", GAUGE, BYTES, FASTBEAN, state.memory.buffer_bytes + state.journal.memory_bytes,
           b"fastbean_memory_bytes{kind=\"buffers\"}", b"Memory of the buffers of clients and of the binlog.")
    number(sheet, b"max-memory", GAUGE, BYTES, FASTBEAN, or_none(state.memory.limit_bytes),
           b"fastbean_max_memory_bytes", b"The memory at which puts are refused (--max-memory); 0 is no limit.")
    number(sheet, b"max-memory-hits", COUNTER, COMMANDS, FASTBEAN, state.hits.memory,
           b"fastbean_limit_hits_total{limit=\"memory\"}", b"Puts and lists of tubes refused for want of memory.")
    number(sheet, b"max-connections", GAUGE, CLIENTS, FASTBEAN, state.max_connections,
           b"fastbean_max_connections", b"The clients that may be connected (--max-connections); 0 is no limit.")
    number(sheet, b"max-connections-hits", COUNTER, CLIENTS, FASTBEAN, state.hits.connections,
           b"fastbean_limit_hits_total{limit=\"connections\"}", b"Clients refused because there were too many.")
    number(sheet, b"max-tubes", GAUGE, TUBES, FASTBEAN, state.max_tubes,
           b"fastbean_max_tubes", b"The tubes that may exist (--max-tubes); 0 is no limit.")
    number(sheet, b"max-tubes-hits", COUNTER, COMMANDS, FASTBEAN, state.hits.tubes,
           b"fastbean_limit_hits_total{limit=\"tubes\"}", b"Commands refused because there were too many tubes.")
    number(sheet, b"max-job-size-hits", COUNTER, COMMANDS, FASTBEAN, state.hits.job_size,
           b"fastbean_limit_hits_total{limit=\"job_size\"}", b"Puts refused because their body was too large.")
    number(sheet, b"binlog-full-hits", COUNTER, COMMANDS, FASTBEAN, state.hits.binlog_space,
           b"fastbean_limit_hits_total{limit=\"binlog_space\"}",
           b"Puts and pauses refused because the binlog could not grow.")


cdef void client_limit_rows(Sheet *sheet, State state) noexcept nogil:
    number(sheet, b"max-client-input", GAUGE, BYTES, FASTBEAN, INPUT_LIMIT,
           b"fastbean_max_client_input_bytes", b"Input of a client that may wait behind an unanswered command.")
    number(sheet, b"max-client-input-hits", COUNTER, TIMES, FASTBEAN, state.hits.client_input,
           b"fastbean_limit_hits_total{limit=\"client_input\"}", b"Times that reading from a client stopped.")
    number(sheet, b"max-client-output", GAUGE, BYTES, FASTBEAN, OUTPUT_LIMIT,
           b"fastbean_max_client_output_bytes", b"Unread replies at which the commands of a client wait.")
    number(sheet, b"max-client-output-hits", COUNTER, TIMES, FASTBEAN, state.hits.client_output,
           b"fastbean_limit_hits_total{limit=\"client_output\"}", b"Times that a client had too many unread replies.")
    number(sheet, b"max-client-steps", GAUGE, STEPS, FASTBEAN, STEPS_PER_ITERATION,
           b"fastbean_max_client_steps", b"Lines and bodies of one client that an iteration may take.")
    number(sheet, b"max-client-steps-hits", COUNTER, TIMES, FASTBEAN, state.hits.client_steps,
           b"fastbean_limit_hits_total{limit=\"client_steps\"}", b"Times that a client had to wait for the others.")
    number(sheet, b"max-iteration-effort", GAUGE, STEPS, FASTBEAN, EFFORT_PER_ITERATION,
           b"fastbean_max_iteration_effort", b"Commands, moved jobs and the like that one iteration may take.")
    number(sheet, b"max-iteration-effort-hits", COUNTER, TIMES, FASTBEAN, state.hits.iteration_effort,
           b"fastbean_limit_hits_total{limit=\"iteration_effort\"}", b"Times that an iteration had too much to do.")


# The table of a tube

cdef void tube_rows(Sheet *sheet, Tube *tube, uint64_t oldest_age_s, int64_t now_ns) noexcept nogil:
    """`oldest_age_s` is the value of the last row, in seconds."""
    cdef int64_t pause_left_ns = tube.unpause_at_ns - now_ns if tube.pause_ns else 0
    quoted(sheet, b"name", BEANSTALKD, tube_name(tube), tube_name(tube), NULL, b"The name of the tube.")
    tube_count_rows(sheet, tube)
    number(sheet, b"cmd-delete", COUNTER, COMMANDS, BEANSTALKD, tube.deletes,
           b"beanstalkd_tube_commands_total{cmd=\"delete\"}", b"Jobs of the tube that were deleted.")
    number(sheet, b"cmd-pause-tube", COUNTER, COMMANDS, BEANSTALKD, tube.pauses,
           b"beanstalkd_tube_commands_total{cmd=\"pause-tube\"}", b"Commands that paused the tube.")
    signed(sheet, b"pause", GAUGE, SECONDS, BEANSTALKD, tube.pause_ns // NS_IN_SECOND,
           b"beanstalkd_tube_pause_seconds", b"How long the tube is paused in all; 0 when it is not.")
    signed(sheet, b"pause-time-left", GAUGE, SECONDS, BEANSTALKD, pause_left_ns // NS_IN_SECOND,
           b"beanstalkd_tube_pause_time_left_seconds", b"Time until the pause ends.")
    number(sheet, b"total-enqueued", COUNTER, TIMES, FASTBEAN, tube.enqueued,
           b"fastbean_tube_enqueued_total", b"Times that a job became ready, in whatever way.")
    number(sheet, b"total-finished", COUNTER, JOBS, FASTBEAN, tube.finished,
           b"fastbean_tube_finished_total", b"Jobs deleted by the client that had reserved them.")
    number(sheet, b"current-bytes", GAUGE, BYTES, FASTBEAN, tube.body_bytes,
           b"fastbean_tube_bytes", b"Size of the bodies of all jobs, in any state.")
    number(sheet, b"oldest-ready-age", GAUGE, SECONDS, FASTBEAN, oldest_age_s,
           b"fastbean_tube_oldest_ready_age_seconds", b"Time since the oldest ready job was put; 0 when none is ready.")


cdef void tube_count_rows(Sheet *sheet, Tube *tube) noexcept nogil:
    number(sheet, b"current-jobs-urgent", GAUGE, JOBS, BEANSTALKD, tube.urgent,
           b"beanstalkd_tube_current_jobs{state=\"urgent\"}", b"Ready jobs with a priority below 1024.")
    number(sheet, b"current-jobs-ready", GAUGE, JOBS, BEANSTALKD, tube.ready.len,
           b"beanstalkd_tube_current_jobs{state=\"ready\"}", b"Jobs that wait for a worker, the urgent ones included.")
    number(sheet, b"current-jobs-reserved", GAUGE, JOBS, BEANSTALKD, tube.reserved,
           b"beanstalkd_tube_current_jobs{state=\"reserved\"}", b"Jobs that clients have reserved.")
    number(sheet, b"current-jobs-delayed", GAUGE, JOBS, BEANSTALKD, tube.delayed.len,
           b"beanstalkd_tube_current_jobs{state=\"delayed\"}", b"Jobs that become ready when their delay is over.")
    number(sheet, b"current-jobs-buried", GAUGE, JOBS, BEANSTALKD, tube.buried.len,
           b"beanstalkd_tube_current_jobs{state=\"buried\"}", b"Jobs that wait until a client kicks or deletes them.")
    number(sheet, b"total-jobs", COUNTER, JOBS, BEANSTALKD, tube.total_jobs,
           b"beanstalkd_tube_jobs_total", b"Jobs that were put into the tube.")
    number(sheet, b"current-using", GAUGE, CLIENTS, BEANSTALKD, tube.using,
           b"beanstalkd_tube_current_using", b"Clients that use the tube.")
    number(sheet, b"current-watching", GAUGE, CLIENTS, BEANSTALKD, tube.watching,
           b"beanstalkd_tube_current_watching", b"Clients that watch the tube.")
    number(sheet, b"current-waiting", GAUGE, CLIENTS, BEANSTALKD, tube.waiting,
           b"beanstalkd_tube_current_waiting", b"Clients that watch the tube and wait in a reserve.")


# The table of a job. There are no metrics of single jobs.

cdef inline const char *state_word(Job *job) noexcept nogil:
    if job.state == JOB_READY:
        return b"ready"
    if job.state == JOB_RESERVED or job.state == JOB_RETURNING:
        return b"reserved"
    return b"delayed" if job.state == JOB_DELAYED else b"buried"


cdef void job_rows(Sheet *sheet, Job *job, uint64_t id, Tube *tube, int64_t left_ns, int64_t now_ns) noexcept nogil:
    """`left_ns` is the time until the job's delay or reservation ends; 0 if it has neither."""
    number(sheet, b"id", TEXT, NO_UNIT, BEANSTALKD, id, NULL, b"The id of the job.")
    quoted(sheet, b"tube", BEANSTALKD, tube_name(tube), tube_name(tube), NULL, b"The tube that the job is in.")
    word(sheet, b"state", BEANSTALKD, state_word(job), NULL, b"The state: ready, reserved, delayed or buried.")
    number(sheet, b"pri", GAUGE, NO_UNIT, BEANSTALKD, job.pri, NULL, b"The priority; 0 is the most urgent one.")
    signed(sheet, b"age", GAUGE, SECONDS, BEANSTALKD, (now_ns - job.created_ns) // NS_IN_SECOND,
           NULL, b"Time since the job was put.")
    number(sheet, b"delay", GAUGE, SECONDS, BEANSTALKD, job.delay_s, NULL, b"The delay of its put or last release.")
    number(sheet, b"ttr", GAUGE, SECONDS, BEANSTALKD, job.ttr_s, NULL, b"How long a client may reserve the job.")
    signed(sheet, b"time-left", GAUGE, SECONDS, BEANSTALKD, left_ns // NS_IN_SECOND,
           NULL, b"Time until its delay or its reservation ends; 0 if it has neither.")
    number(sheet, b"file", GAUGE, NO_UNIT, BEANSTALKD, job.segment,
           NULL, b"The number of the file of the binlog with the job; 0 without a binlog.")
    number(sheet, b"reserves", COUNTER, TIMES, BEANSTALKD, job.reserves, NULL, b"Times that it was reserved.")
    number(sheet, b"timeouts", COUNTER, TIMES, BEANSTALKD, job.timeouts, NULL, b"Reservations that its ttr ended.")
    number(sheet, b"releases", COUNTER, TIMES, BEANSTALKD, job.releases, NULL, b"Times that a client released it.")
    number(sheet, b"buries", COUNTER, TIMES, BEANSTALKD, job.buries, NULL, b"Times that it was buried.")
    number(sheet, b"kicks", COUNTER, TIMES, BEANSTALKD, job.kicks, NULL, b"Times that it was kicked.")


# The sheets

cdef void fill_server(Sheet *sheet, State state, int64_t now_ns) noexcept nogil:
    """What the figures of the server are at this moment."""
    begin_sheet(sheet, &server_table, state.has_binlog)
    server_rows(sheet, state, now_ns)


cdef void fill_tube(Sheet *sheet, Tube *tube, uint64_t oldest_age_s, int64_t now_ns) noexcept nogil:
    """The same of one tube; `oldest_age_s` is the age of its oldest ready job in seconds, see `oldest_ready`."""
    begin_sheet(sheet, &tube_table, False)
    tube_rows(sheet, tube, oldest_age_s, now_ns)


cdef void fill_job(Sheet *sheet, State state, Job *job, uint64_t id, int64_t now_ns) noexcept nogil:
    """The same of one job."""
    cdef int64_t left_ns = 0
    if job.state == JOB_RESERVED or job.state == JOB_DELAYED:
        left_ns = state.deadline_of(job) - now_ns
    begin_sheet(sheet, &job_table, False)
    job_rows(sheet, job, id, state.tube_of(job), left_ns, now_ns)


cdef Table *table_of_a_tube() noexcept nogil:
    return &tube_table


cdef int complete() except -1:
    """Make sure that the tables have their rows of commands. The table of commands imports this module, and makes the
    tables when it is loaded: every server has loaded it, a program that only looks at statistics may not."""
    if server_table.count == 0:
        importlib.import_module("fastbean.engine.command_table")
    return 0


def tables() -> dict[str, list[dict[str, str]]]:
    """The tables of the server, a tube and a job: the columns of each row, by name."""
    complete()
    return {"server": rows_of(&server_table), "tube": rows_of(&tube_table), "job": rows_of(&job_table)}


# The tables are made here

cdef int name_commands() except -1:
    """Make the texts of the commands' rows from their words."""
    cdef uint32_t command
    for command in range(1, words_count + 1):
        name = (<bytes>words[command].text).strip()
        key, metric = b"cmd-" + name, b'beanstalkd_commands_total{cmd="' + name + b'"}'
        help = b"Well-formed " + name + b" commands."
        _command_texts.append((key, metric, help))
        command_figures[command] = CommandFigure(key, metric, help)
    return 0


cdef int make_tables() except -1:
    """Run the rows once for their descriptions, when all commands have their rows. Their values do not matter: the
    server, the tube and the job are empty ones."""
    cdef Sheet sheet
    cdef Tube *tube = <Tube *>calloc(1, sizeof(Tube) + 1)
    cdef Job job
    if tube is NULL:
        raise MemoryError
    memset(&job, 0, sizeof(job))
    name_commands()
    try:
        begin_table(&sheet, &server_table)
        # The key is not zero: int.from_bytes then looks at a digit that nothing has set, which valgrind reports.
        server_rows(&sheet, State(hash_key=b"statistics table"), 0)
        finish_table(&server_table, _FAMILIES)
        begin_table(&sheet, &tube_table)
        tube_rows(&sheet, tube, 0, 0)
        finish_table(&tube_table, _FAMILIES)
        begin_table(&sheet, &job_table)
        job_rows(&sheet, &job, 0, tube, 0, 0)
        finish_table(&job_table, _FAMILIES)
    finally:
        free(tube)
    return 0
