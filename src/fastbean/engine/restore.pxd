"""`JobSource` on the state: restoring jobs at the start, and reading them for compaction."""

from fastbean.engine.journal cimport JobSource
from fastbean.engine.state cimport State


cdef class EngineJobs(JobSource):
    cdef State state
