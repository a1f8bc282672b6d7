"""The table of commands: a row for each."""

from libc.stdint cimport int64_t

from fastbean.engine.client cimport Client
from fastbean.engine.state cimport State
from fastbean.protocol.commands cimport MAX_COMMANDS, Command, Counter, Form
from fastbean.protocol.replies cimport Reply

ctypedef Reply (*Run)(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil

cdef enum Target:                   # what a command acts on
    ON_NOTHING
    ON_TUBE
    ON_JOB
    ON_OWN_RESERVATION

cdef enum Effect:
    LOOKS                           # it changes nothing that a binlog stores
    CHANGES

cdef enum Right:                    # what a client needs; nothing enforces it yet
    RIGHT_ADMIN                     # also of a row that states none
    RIGHT_MONITOR
    RIGHT_PRODUCER
    RIGHT_WORKER

cdef struct Row:
    Run run                         # NULL: the connection itself carries it out
    Target target
    Right right
    Effect effect

cdef Row[<int>MAX_COMMANDS] rows    # by the number of the command

cdef int add_command(
    const char *word, Form form, Run run, Target target, Effect effect, Right right=*, Counter counter=*,
) except -1
