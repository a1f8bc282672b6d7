"""Writes a sheet of statistics as YAML, as JSON or in Prometheus' text format."""

from fastbean.base.buffer cimport Buffer
from fastbean.engine.figure cimport Family, Sheet, Table

cdef void write_yaml(Table *table, Sheet *sheet, Buffer *text) noexcept nogil
cdef void write_json(Table *table, Sheet *sheet, Buffer *text) noexcept nogil
cdef void write_family_head(Table *table, Family *family, Buffer *text) noexcept nogil
cdef void write_family(Table *table, Family *family, Sheet *sheet, const char *tube, Buffer *text) noexcept nogil
cdef bint is_family_shown(Table *table, Family *family, Sheet *sheet) noexcept nogil
cdef void write_escaped(const char *plain, bint is_json, Buffer *text) noexcept nogil
