"""The statistics of the server, its tubes and its jobs: as YAML, as JSON, and as metrics for Prometheus.

`statistics_tables` has the rows that all of these are made from.

The statistics of the server, a tube or a job cost O(1): everything in them is counted as it happens. The exception is
the age of a tube's oldest ready job, which `oldest_ready` has to find.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from fastbean.base.buffer cimport Buffer, buffer_free, buffer_reserve
from fastbean.engine.client cimport begin_text
from fastbean.engine.state cimport State
from fastbean.engine.exposition cimport (
    is_family_shown, write_escaped, write_family, write_family_head, write_json, write_yaml,
)
from fastbean.engine.figure cimport Sheet
from fastbean.engine.job cimport Job, job_table_get
from fastbean.engine.oldest_ready cimport age_of_oldest_s, find_oldest
from fastbean.engine.statistics_tables cimport complete, fill_job, fill_server, fill_tube, table_of_a_tube
from fastbean.engine.tube cimport Tube, tube_find, tube_name

cdef enum:
    STATS_BYTES = 2048                  # the initial capacity; most texts then need no reallocation


# YAML

cdef void stats_text(State state, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the statistics of the server."""
    cdef Sheet sheet
    fill_server(&sheet, state, now_ns)
    buffer_reserve(text, STATS_BYTES)
    begin_text(text)
    write_yaml(&sheet, text)


cdef void stats_tube_text(Tube *tube, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the statistics of one tube, with 0 as the age of its oldest ready job, which ends the text. The caller puts
    the age in its place, once it is found."""
    cdef Sheet sheet
    fill_tube(&sheet, tube, 0, now_ns)
    begin_text(text)
    write_yaml(&sheet, text)


cdef void stats_job_text(State state, Job *job, uint64_t id, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the statistics of one job."""
    cdef Sheet sheet
    fill_job(&sheet, state, job, id, now_ns)
    begin_text(text)
    write_yaml(&sheet, text)


# JSON: an object with beanstalkd's keys

cdef void server_json(State state, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the statistics of the server."""
    cdef Sheet sheet
    fill_server(&sheet, state, now_ns)
    write_json(&sheet, text)


cdef void tube_json(Tube *tube, uint64_t oldest_age_s, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the statistics of one tube. For `oldest_age_s` see `oldest_ready.find_oldest`."""
    cdef Sheet sheet
    fill_tube(&sheet, tube, oldest_age_s, now_ns)
    write_json(&sheet, text)


cdef void job_json(State state, Job *job, uint64_t id, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the statistics of one job."""
    cdef Sheet sheet
    fill_job(&sheet, state, job, id, now_ns)
    write_json(&sheet, text)


# Prometheus

cdef void server_metrics(State state, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the metrics of the server, without those of its tubes."""
    cdef Sheet sheet
    cdef uint32_t family
    fill_server(&sheet, state, now_ns)
    for family in range(sheet.table.family_count):
        if is_family_shown(&sheet, family):
            write_family_head(sheet.table, family, text)
            write_family(&sheet, family, NULL, text)


cdef uint32_t tube_family_count() noexcept nogil:
    """The number of metrics that a tube has. For each of them, a caller writes the head, and then the samples of one
    tube after the other, in slices if there are many."""
    return table_of_a_tube().family_count


cdef void tube_family_head(uint32_t family, Buffer *text) noexcept nogil:
    write_family_head(table_of_a_tube(), family, text)


cdef void tube_family(uint32_t family, Tube *tube, uint64_t oldest_age_s, Buffer *text, int64_t now_ns) noexcept nogil:
    """Write the samples of one metric of one tube; `family` is below `tube_family_count`."""
    cdef Sheet sheet
    fill_tube(&sheet, tube, oldest_age_s, now_ns)
    write_family(&sheet, family, tube_name(tube), text)


# Python

cdef bytes taken(Buffer *text):
    """The text as a Python object; the buffer is freed."""
    try:
        if text.failed:
            raise MemoryError
        return b"" if text.data is NULL else text.data[:text.len]
    finally:
        buffer_free(text)


cdef uint64_t oldest_age_s(State state, Tube *tube, int64_t now_ns) noexcept nogil:
    cdef uint32_t steps = <uint32_t>-1
    cdef Job *job = NULL
    find_oldest(&state.jobs, tube, &steps, &job)
    return age_of_oldest_s(job, now_ns)


def json_of_server(State state not None, int64_t now_ns) -> bytes:
    """The statistics of the server as a JSON object; `now_ns` is the monotonic time in nanoseconds."""
    cdef Buffer text
    memset(&text, 0, sizeof(text))
    complete()
    server_json(state, &text, now_ns)
    return taken(&text)


def json_of_tube(State state not None, bytes name not None, int64_t now_ns) -> bytes:
    """The statistics of a tube as a JSON object, or b"" if there is no such tube."""
    cdef Tube *tube = tube_find(&state.tubes, name, len(name))
    cdef Buffer text
    memset(&text, 0, sizeof(text))
    complete()
    if tube is not NULL:
        tube_json(tube, oldest_age_s(state, tube, now_ns), &text, now_ns)
    return taken(&text)


def json_of_job(State state not None, uint64_t id, int64_t now_ns) -> bytes:
    """The statistics of a job as a JSON object, or b"" if there is no such job."""
    cdef Job *job = job_table_get(&state.jobs, id)
    cdef Buffer text
    memset(&text, 0, sizeof(text))
    complete()
    if job is not NULL:
        job_json(state, job, id, &text, now_ns)
    return taken(&text)


def metrics(State state not None, int64_t now_ns) -> bytes:
    """The metrics of the server and of all tubes in Prometheus' text format, all at once: it may take long."""
    cdef Buffer text
    cdef Tube *tube
    cdef uint32_t family, place
    memset(&text, 0, sizeof(text))
    complete()
    server_metrics(state, &text, now_ns)
    for family in range(tube_family_count()):
        tube_family_head(family, &text)
        for place in range(state.tubes.count):
            tube = state.tubes.listed[place]
            tube_family(family, tube, oldest_age_s(state, tube, now_ns), &text, now_ns)
    return taken(&text)


def label(bytes plain not None) -> bytes:
    """A text as it is between the quotes of a label; for tests, since no name of a tube needs an escape."""
    cdef Buffer text
    memset(&text, 0, sizeof(text))
    write_escaped(plain, False, &text)
    return taken(&text)
