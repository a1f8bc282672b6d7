"""The statistics of the server, its tubes and its jobs."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.commands cimport Engine
from fastbean.engine.tube cimport Tube

cdef void stats_text(Engine engine, Buffer *text, int64_t now_ns) noexcept
cdef void stats_tube_text(Tube *tube, Buffer *text, int64_t now_ns) noexcept
cdef bint stats_job_text(Engine engine, uint64_t id, Buffer *text, int64_t now_ns) noexcept

cdef void server_json(Engine engine, Buffer *text, int64_t now_ns) noexcept
cdef void tube_json(Tube *tube, uint64_t oldest_age_s, Buffer *text, int64_t now_ns) noexcept
cdef bint job_json(Engine engine, uint64_t id, Buffer *text, int64_t now_ns) noexcept

cdef void server_metrics(Engine engine, Buffer *text, int64_t now_ns) noexcept
cdef uint32_t tube_family_count() noexcept
cdef void tube_family_head(uint32_t family, Buffer *text) noexcept
cdef void tube_family(uint32_t family, Tube *tube, uint64_t oldest_age_s, Buffer *text, int64_t now_ns) noexcept
