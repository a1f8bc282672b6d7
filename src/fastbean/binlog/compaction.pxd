"""Compaction: copies what is live out of the oldest segments, so that they can be dropped, and drops them."""

from fastbean.binlog.writer cimport BinlogWriter
from fastbean.engine.journal cimport Compactor


cdef class Compaction(Compactor):
    cdef BinlogWriter writer
