"""The statistics of the server, its tubes and its jobs."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.job cimport Job
from fastbean.engine.state cimport State
from fastbean.engine.tube cimport Tube

cdef void stats_text(State state, Buffer *text, int64_t now_ns) noexcept nogil
cdef void stats_tube_text(Tube *tube, Buffer *text, int64_t now_ns) noexcept nogil
cdef void stats_job_text(State state, Job *job, uint64_t id, Buffer *text, int64_t now_ns) noexcept nogil

cdef void server_json(State state, Buffer *text, int64_t now_ns) noexcept nogil
cdef void tube_json(Tube *tube, uint64_t oldest_age_s, Buffer *text, int64_t now_ns) noexcept nogil
cdef void job_json(State state, Job *job, uint64_t id, Buffer *text, int64_t now_ns) noexcept nogil

cdef void server_metrics(State state, Buffer *text, int64_t now_ns) noexcept nogil
cdef uint32_t tube_family_count() noexcept nogil
cdef void tube_family_head(uint32_t family, Buffer *text) noexcept nogil
cdef void tube_family(uint32_t family, Tube *tube, uint64_t oldest_age_s, Buffer *text, int64_t now_ns) noexcept nogil
