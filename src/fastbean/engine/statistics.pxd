"""The texts of stats, stats-tube and stats-job."""

from libc.stdint cimport int64_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.job cimport Job
from fastbean.engine.state cimport State
from fastbean.engine.tube cimport Tube

cdef void stats_text(State state, Buffer *text, int64_t now_ns) noexcept
cdef void stats_tube_text(Tube *tube, Buffer *text, int64_t now_ns) noexcept
cdef void stats_job_text(State state, Job *job, uint64_t id, Buffer *text, int64_t now_ns) noexcept
