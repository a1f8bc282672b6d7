"""A job and a tube as the binlog stores them: everything that a restart must restore, in plain values.

fastbean's own binlog, the reader and writer of beanstalkd's, and the tools exchange them in this form. Both are
immutable. Times are wall time, in nanoseconds since 1970, because they outlive the process and the machine's monotonic
clock.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    State: TypeAlias = Literal["ready", "delayed", "buried"]


@dataclass(frozen=True, slots=True)
class SavedJob:
    """One job.

    - ``id``: 1 and up. ``pri``: 0..4294967295, the most urgent is 0.
    - ``delay_s``, ``ttr_s``: seconds, 0..4294967295. The delay is the last one requested. A ttr is at least 1.
    - ``created_ns``: when it was put. ``deadline_ns``: when a delayed job becomes ready; 0 for others.
    - ``state``: "ready" (also a reserved job: no reservation outlives its server), "delayed" or "buried".
    - ``burial``: the sequence number of a buried job's burial, 0 for others. The lower number was buried first.
    - ``reserves``, ``timeouts``, ``releases``, ``buries``, ``kicks``: how often each happened to the job.
    - ``tube``: its name. ``body``: without the closing CR LF.
    """

    id: int
    pri: int
    delay_s: int
    ttr_s: int
    created_ns: int
    deadline_ns: int
    state: State
    burial: int
    reserves: int
    timeouts: int
    releases: int
    buries: int
    kicks: int
    tube: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class SavedTube:
    """The settings of one tube.

    - ``name``: of the tube. ``pause_s``: the length of its pause in seconds, 0 if it is not paused.
    - ``pause_end_ns``: when the pause ends; 0 without one.
    """

    name: bytes
    pause_s: int
    pause_end_ns: int
