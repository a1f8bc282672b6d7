"""What the tests of beanstalkd's logs share: a job with few words, and looks at what was read."""

import struct
from dataclasses import replace
from pathlib import Path

from fastbean.binlog import beanstalkd
from fastbean.binlog.saved_job import SavedJob

CREATED = 1_700_000_000_123_456_000  # whole microseconds, so that both versions can hold it
HEADER = {7: struct.pack("<i", 7), 5: struct.pack("<i", 5)}


def saved(id, state="ready", **members):
    base = SavedJob(id, 10, 0, 60, CREATED, 0, state, 0, 0, 0, 0, 0, 0, b"default", b"body")
    return replace(base, **members)


def read_alone(data):
    """Reads the bytes of one file, as fast as that goes."""
    found = beanstalkd.BeanstalkdBinlog()
    found._read_file(Path("binlog.1"), data)
    found._report_lost_jobs()
    return found


def ids_of(log):
    return [job.id for job in log.jobs]


def by_burial(log):
    return [job.id for job in sorted(log.jobs, key=lambda job: job.burial) if job.state == "buried"]
