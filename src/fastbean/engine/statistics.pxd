"""The texts of stats, stats-tube and stats-job."""

from libc.stdint cimport int64_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.commands cimport Engine
from fastbean.engine.tube cimport Tube

cdef void stats_text(Engine engine, Buffer *text, int64_t now_ns) noexcept
cdef void stats_tube_text(Tube *tube, Buffer *text, int64_t now_ns) noexcept
cdef bint stats_job_text(Engine engine, uint64_t id, Buffer *text, int64_t now_ns) noexcept
