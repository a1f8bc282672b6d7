"""What an operator can do about an error of the system on a binlog directory or its files."""

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
NO_ACCESS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS})


def advice(error: OSError) -> str:
    """The end of a message about ``error``: what to do."""
    if error.errno in NO_ROOM:
        return "make room on its disk, or choose another directory"
    if error.errno in NO_DESCRIPTORS:
        return "raise ulimit -n (LimitNOFILE=)"
    return "look at the disk, and at the rights of the directory and its files"
