"""Numbers that more than one module needs, or that someone may want to look up: defaults, bounds, budgets.

Units end the names. What only the compiled modules use stands beside the code that uses it.
"""

DEFAULT_HOST = "0.0.0.0"  # noqa: S104 - beanstalkd's default, and warned about at the start
DEFAULT_PORT = 11300
MAX_PORT = 65535

DEFAULT_MAX_JOB_SIZE_BYTES = 65535
MAX_JOB_SIZE_LIMIT_BYTES = 1 << 30

# The least that a limit on memory has to leave beside one job of the largest size: for that job's header, and buffers.
LEAST_BESIDE_A_JOB_BYTES = 65536
MAX_BYTES_LIMIT = (1 << 63) - 1
MAX_COUNT_LIMIT = (1 << 31) - 1

DEFAULT_FSYNC_MS = 50
DEFAULT_BINLOG_SIZE_BYTES = 10485760
MAX_BINLOG_SIZE_BYTES = 1 << 31
# Sizes of the log's files are multiples of it.
SMALLEST_SEGMENT_BYTES = 4096
# The least that takes a put: one file to write to, and one ahead.
LEAST_SEGMENTS = 2
MAX_FSYNC_MS = 10**12

LISTEN_BACKLOG = 1024
READ_BEFORE_CLOSE_BYTES = 65536
# How often a port is chosen that has to be free at all addresses of a host.
PORT_CHOICES = 16
# Files, sockets that listen, pipes: what a server may have open beside its clients.
DESCRIPTORS_BESIDE_CLIENTS = 32
# What clients leave free for a binlog, which opens files as it goes: this many, or a quarter if that is less.
RESERVED_DESCRIPTORS = 32
RESERVED_SHARE = 4
ACCEPTS_PER_ITERATION = 128
# Out of descriptors: how long nobody is accepted unless a connection closes before, and how often that is logged.
ACCEPT_RETRY_NS = 1_000_000_000
ACCEPT_COMPLAINT_NS = 60_000_000_000

# A peer that is gone without a word is noticed after idle + count * interval seconds: seven minutes, not two hours.
DEFAULT_KEEPALIVE_IDLE_S = 300
DEFAULT_KEEPALIVE_INTERVAL_S = 30
DEFAULT_KEEPALIVE_COUNT = 4
# What Linux takes for the three.
MAX_KEEPALIVE_S = 32767
MAX_KEEPALIVE_COUNT = 127

# What a client is told that is one too many; clients know it as "try again later".
REFUSAL_OF_A_CLIENT = b"OUT_OF_MEMORY\r\n"

NS_IN_MS = 1_000_000
MAX_WAIT_NS = 60_000_000_000

DEFAULT_STOP_TIMEOUT_S = 5
# How long a stop reads on, at most, for clients that were still sending, so that none loses a reply by a reset.
LINGER_NS = 2_000_000_000

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
# Clients notice an iteration of half a second; a disk that is merely busy may well take some hundred milliseconds to
# sync.
DEFAULT_SLOW_ITERATION_MS = 500
DEFAULT_SLOW_SYNC_MS = 1000
MAX_SLOW_MS = 86_400_000
MAX_STOP_TIMEOUT_S = 86400
