"""The errors that can keep a server from starting, each with an exit status: beanstalkd's own where it has one.

The text of each error is one line that says what is wrong and what to do.
"""


class FastbeanError(Exception):
    """An error that the operator can fix; ``exit_status`` is the status with which the program ends."""

    exit_status = 1


class UsageError(FastbeanError):
    """A flag, an argument or a setting is wrong."""

    exit_status = 5


class BinlogError(FastbeanError):
    """The binlog cannot be used."""

    exit_status = 10


class BinlogFailedError(FastbeanError):
    """Writing or syncing the binlog failed while the server ran: it ends before it sends a reply that depends on it."""

    exit_status = 74  # EX_IOERR of sysexits.h


class ReplicationError(FastbeanError):
    """A node of a replicated binlog cannot start or continue.

    ``exit_status`` is 75 if the stream cannot be used, 76 if it is another one or damaged, 70 after an error of ours.
    """

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class ResourceError(FastbeanError):
    """The system does not provide what a start needs: memory, or descriptors."""

    exit_status = 71  # EX_OSERR of sysexits.h


class NoSuchUserError(FastbeanError):
    """The user given with ``-u`` does not exist."""

    exit_status = 33


class PrivilegeError(FastbeanError):
    """The user exists, but the system does not let this process switch to it."""

    exit_status = 34


class ListenError(FastbeanError):
    """The server cannot listen on an address."""

    exit_status = 111
