"""Writes a sheet of statistics as YAML, as JSON or in Prometheus' text format."""

from libc.stdint cimport uint32_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.figure cimport Sheet, Table

cdef void write_yaml(Sheet *sheet, Buffer *text) noexcept nogil
cdef void write_json(Sheet *sheet, Buffer *text) noexcept nogil
cdef bint is_family_shown(Sheet *sheet, uint32_t number) noexcept nogil
cdef void write_family_head(Table *table, uint32_t number, Buffer *text) noexcept nogil
cdef void write_family(Sheet *sheet, uint32_t number, const char *tube, Buffer *text) noexcept nogil
cdef void write_escaped(const char *plain, bint is_json, Buffer *text) noexcept nogil
