"""The scenarios: the name of each, what one of its operations is, and what it needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One way to load a server.

    words: what an operation is. core: the scenario of the compiled core that is timed; "" for workers that are woken.
    leaves_jobs: it leaves jobs, which are deleted afterwards. takes_jobs: it takes jobs, which are put before.
    looks_at_jobs: it needs a backlog of jobs. in_many_tubes, random_pri, delayed: how the jobs are put.
    """

    name: str
    words: str
    core: str
    leaves_jobs: bool = False
    takes_jobs: bool = False
    looks_at_jobs: bool = False
    in_many_tubes: bool = False
    random_pri: bool = False
    delayed: bool = False


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("put", "put a job", "put", leaves_jobs=True),
        Scenario("take", "reserve a job and delete it", "take", takes_jobs=True),
        Scenario("cycle", "put a job, reserve one, delete it", "cycle"),
        Scenario(
            "tubes",
            "use a tube, chosen at random from --tubes, and put a job there",
            "tubes",
            leaves_jobs=True,
            in_many_tubes=True,
        ),
        Scenario(
            "priorities",
            "reserve and delete one of many jobs that were put with random priorities",
            "take",
            takes_jobs=True,
            random_pri=True,
        ),
        Scenario("delays", "put a job with a random delay of hours", "put", leaves_jobs=True, delayed=True),
        Scenario("peek", "peek at a job, chosen at random from --backlog, by its id", "peek", looks_at_jobs=True),
        Scenario("stats", "ask for the server's statistics", "stats"),
        Scenario("wake", "put a job for which --clients workers wait; latency: until one of them has it", ""),
    )
}
DEFAULT_SCENARIOS = ("put", "take", "cycle")
