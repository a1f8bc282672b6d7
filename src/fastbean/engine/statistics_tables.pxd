"""The tables of statistics, and sheets of values that are filled from them."""

from libc.stdint cimport int64_t, uint64_t

from fastbean.engine.state cimport State
from fastbean.engine.figure cimport Sheet, Table
from fastbean.engine.job cimport Job
from fastbean.engine.tube cimport Tube

cdef void fill_server(Sheet *sheet, State state, int64_t now_ns) noexcept nogil
cdef void fill_tube(Sheet *sheet, Tube *tube, uint64_t oldest_age_s, int64_t now_ns) noexcept nogil
cdef void fill_job(Sheet *sheet, State state, Job *job, uint64_t id, int64_t now_ns) noexcept nogil
cdef Table *table_of_a_tube() noexcept nogil
cdef int make_tables() except -1
cdef int complete() except -1
