"""Numbers that more than one module needs, or that a reader may want to look up: defaults, bounds, budgets.

A name ends with its unit. Numbers that only one compiled module uses are next to the code that uses them.
"""

DEFAULT_HOST = "0.0.0.0"  # noqa: S104 - beanstalkd's default; the start logs a warning about it
DEFAULT_PORT = 11300
MAX_PORT = 65535

DEFAULT_MAX_JOB_SIZE_BYTES = 65535
MAX_JOB_SIZE_LIMIT_BYTES = 1 << 30

# A memory limit must leave at least this much beside one job of the largest size: for the job's header and for buffers.
LEAST_BESIDE_A_JOB_BYTES = 65536
MAX_BYTES_LIMIT = (1 << 63) - 1
MAX_COUNT_LIMIT = (1 << 31) - 1

DEFAULT_FSYNC_MS = 50
DEFAULT_BINLOG_SIZE_BYTES = 10485760
MAX_BINLOG_SIZE_BYTES = 1 << 31
# The sizes of binlog files are multiples of it.
SMALLEST_SEGMENT_BYTES = 4096
# The fewest files with which a put can be stored: one being written, and the next one.
LEAST_SEGMENTS = 2
MAX_FSYNC_MS = 10**12

LISTEN_BACKLOG = 1024
READ_BEFORE_CLOSE_BYTES = 65536
# How many ports are tried when the system chooses one that has to be free at all addresses of a host.
PORT_CHOICES = 16
# Descriptors that a server may need besides its clients: files, listening sockets, pipes.
DESCRIPTORS_BESIDE_CLIENTS = 32
# Descriptors that clients leave free for a binlog, which keeps opening files: this many, or a quarter if that is less.
RESERVED_DESCRIPTORS = 32
RESERVED_SHARE = 4
ACCEPTS_PER_ITERATION = 128
# Out of descriptors: how long accepting pauses unless a connection closes first, and how often that is logged.
ACCEPT_RETRY_NS = 1_000_000_000
ACCEPT_COMPLAINT_NS = 60_000_000_000

# A peer that vanished is noticed after idle + count * interval seconds: seven minutes, instead of two hours.
DEFAULT_KEEPALIVE_IDLE_S = 300
DEFAULT_KEEPALIVE_INTERVAL_S = 30
DEFAULT_KEEPALIVE_COUNT = 4
# The largest values that Linux accepts for the three.
MAX_KEEPALIVE_S = 32767
MAX_KEEPALIVE_COUNT = 127

# The reply to a client above the limit; clients know it as "try again later".
REFUSAL_OF_A_CLIENT = b"OUT_OF_MEMORY\r\n"

# One above that of clients, as other servers place it.
DEFAULT_HTTP_PORT = 11301

NS_IN_MS = 1_000_000
MAX_WAIT_NS = 60_000_000_000

DEFAULT_STOP_TIMEOUT_S = 5
# How long a stop keeps reading from clients that were still sending, so that a reset does not cost them a reply.
LINGER_NS = 2_000_000_000

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
# Clients notice an iteration of half a second; a disk that is merely busy may need some hundred milliseconds to sync.
DEFAULT_SLOW_ITERATION_MS = 500
DEFAULT_SLOW_SYNC_MS = 1000
MAX_SLOW_MS = 86_400_000
MAX_STOP_TIMEOUT_S = 86400
# A failover takes about the lease. Below half a second, a commit on a busy disk could look like a dead leader.
DEFAULT_LEASE_S = 2
LEAST_LEASE_S = 0.5
MAX_LEASE_S = 60
# Longer than an election of NATS, which takes 4 to 9 seconds.
DEFAULT_STALL_S = 15
MAX_STALL_S = 3600
EVENT_LOOPS = ("compiled", "selectors")

# The values that each setting of a number, and each one of a word, can have, by the field of ``Config``.
RANGES = {
    "max_job_size": (0, MAX_JOB_SIZE_LIMIT_BYTES),
    "verbosity": (0, 2),
    "fsync_ms": (0, MAX_FSYNC_MS),
    "binlog_size": (0, MAX_BINLOG_SIZE_BYTES),
    "binlog_max_bytes": (0, MAX_BYTES_LIMIT),
    "unix_mode": (0, 0o777),
    "keepalive_idle_s": (1, MAX_KEEPALIVE_S),
    "keepalive_interval_s": (1, MAX_KEEPALIVE_S),
    "keepalive_count": (1, MAX_KEEPALIVE_COUNT),
    "max_memory_bytes": (0, MAX_BYTES_LIMIT),
    "max_connections": (0, MAX_COUNT_LIMIT),
    "max_tubes": (0, MAX_COUNT_LIMIT),
    "stop_timeout_s": (0, MAX_STOP_TIMEOUT_S),
    "slow_iteration_ms": (0, MAX_SLOW_MS),
    "slow_sync_ms": (0, MAX_SLOW_MS),
    "lease_s": (LEAST_LEASE_S, MAX_LEASE_S),
    "stall_s": (1, MAX_STALL_S),
}
# These need not be whole numbers.
IN_FRACTIONS = ("stop_timeout_s", "lease_s", "stall_s")
MAY_BE_NONE = ("fsync_ms", "unix_mode", "log_level")
CHOICES = {"log_format": LOG_FORMATS, "log_level": LOG_LEVELS, "event_loop": EVENT_LOOPS}
