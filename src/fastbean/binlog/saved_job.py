"""A job as the log keeps it: everything that a restart must bring back, in plain values.

What passes between fastbean's own log, the logs of beanstalkd and the tools that show them. Nothing changes it once it
is made. Times are wall time, in nanoseconds since 1970, because they outlive the process and the machine's clock.
"""

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    State: TypeAlias = Literal["ready", "delayed", "buried"]


@dataclass(frozen=True, slots=True)
class SavedJob:
    """One job.

    - ``id``: 1 and up. ``pri``: 0..4294967295, the most urgent is 0.
    - ``delay_s``, ``ttr_s``: seconds, 0..4294967295; the delay is the one that was asked for last. A ttr is at least 1.
    - ``created_ns``: when it was put. ``deadline_ns``: when it becomes ready, if it is delayed; 0 if not.
    - ``state``: "ready" (a reserved job too: no reservation outlives its server), "delayed" or "buried".
    - ``burial``: the number of the burial of a buried job, 0 for others. The lower number was buried first.
    - ``reserves``, ``timeouts``, ``releases``, ``buries``, ``kicks``: how often that happened to it.
    - ``tube``: its name. ``body``: without the closing CR LF.
    """

    id: int
    pri: int
    delay_s: int
    ttr_s: int
    created_ns: int
    deadline_ns: int
    state: "State"
    burial: int
    reserves: int
    timeouts: int
    releases: int
    buries: int
    kicks: int
    tube: bytes
    body: bytes
