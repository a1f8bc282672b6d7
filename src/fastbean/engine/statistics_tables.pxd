"""The tables of statistics, and sheets of values that are filled from them."""

from libc.stdint cimport int64_t, uint64_t

from fastbean.engine.commands cimport Engine
from fastbean.engine.figure cimport Sheet, Table
from fastbean.engine.tube cimport Tube

cdef void fill_server(Sheet *sheet, Engine engine, int64_t now_ns) noexcept
cdef void fill_tube(Sheet *sheet, Tube *tube, uint64_t oldest_age_s, int64_t now_ns) noexcept nogil
cdef bint fill_job(Sheet *sheet, Engine engine, uint64_t id, int64_t now_ns) noexcept
cdef Table *table_of_a_tube() noexcept nogil
