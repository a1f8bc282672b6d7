from typing import Self, final

@final
class State:
    draining: bool
    follows: bool
    max_job_size: int
    def __new__(
        cls,
        *,
        max_job_size: int = 65535,
        now_ns: int = 0,
        version: str = "",
        fastbean_version: str = "",
        instance_id: str = "",
        hostname: str = "",
        os: str = "",
        platform: str = "",
        binlog_max_size: int = 10485760,
        max_memory_bytes: int = 0,
        max_tubes: int = 0,
        max_connections: int = 0,
        hash_key: bytes = ...,
    ) -> Self: ...
    @property
    def effort(self) -> int: ...
    @property
    def next_job_id(self) -> int: ...
    def next_deadline_ns(self) -> int: ...
    def counters(self) -> dict[str, int]: ...
