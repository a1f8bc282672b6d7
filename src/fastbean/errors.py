"""What can keep a server from starting, and the exit status of each: beanstalkd's own numbers where it has one.

The text of each error is one line that says what is wrong and what to do.
"""


class FastbeanError(Exception):
    """Something that a person can put right; ``exit_status`` is what the program ends with."""

    exit_status = 1


class UsageError(FastbeanError):
    """A flag, an argument or a setting is wrong."""

    exit_status = 5


class BinlogError(FastbeanError):
    """The log on disk cannot be used."""

    exit_status = 10


class BinlogFailedError(FastbeanError):
    """The log on disk could not be written or synced while the server ran: it ends before it tells anybody anything."""

    exit_status = 74  # EX_IOERR of sysexits.h


class ResourceError(FastbeanError):
    """The system does not give what a start needs: memory, or descriptors."""

    exit_status = 71  # EX_OSERR of sysexits.h


class NoSuchUserError(FastbeanError):
    """There is no such user to become."""

    exit_status = 33


class PrivilegeError(FastbeanError):
    """The user exists, but the system does not let this process become it."""

    exit_status = 34


class ListenError(FastbeanError):
    """An address cannot be listened on."""

    exit_status = 111
