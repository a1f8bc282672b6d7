"""Maps each command to the function of the engine or of the statistics that runs it.

A new command needs a line here. The caller handles put, whose body comes later, quit, and malformed commands.
"""

from libc.stdint cimport int64_t

from fastbean.base.buffer cimport Buffer, buffer_free
from fastbean.engine.client cimport Client
from fastbean.base.clock cimport NEVER
from fastbean.engine.commands cimport Engine
from fastbean.protocol.replies cimport REPLY_NOT_FOUND, REPLY_OK, REPLY_OUT_OF_MEMORY, REPLY_USING, Reply
from fastbean.protocol.commands cimport (
    OP_BURY, OP_DELETE, OP_IGNORE, OP_KICK, OP_KICK_JOB, OP_LIST_TUBES, OP_LIST_TUBES_WATCHED, OP_LIST_TUBE_USED,
    OP_PAUSE_TUBE, OP_PEEK, OP_PEEK_BURIED, OP_PEEK_DELAYED, OP_PEEK_READY, OP_RELEASE, OP_RESERVE, OP_RESERVE_JOB,
    OP_RESERVE_WITH_TIMEOUT, OP_STATS, OP_STATS_JOB, OP_TOUCH, OP_USE, OP_WATCH, Command, Op,
)
from fastbean.engine.statistics cimport stats_job_text, stats_text, stats_tube_text
from fastbean.engine.tube cimport Tube, tube_find


cdef Reply dispatch(Engine engine, Client *client, Command *command, int64_t now_ns) noexcept:
    """Run a command. Returns the reply, or REPLY_NONE when it comes later; its arguments are in ``client.answer``."""
    cdef Op op = command.op
    if op == OP_RESERVE:
        return engine.reserve(client, NEVER, now_ns)
    if op == OP_RESERVE_WITH_TIMEOUT:
        return engine.reserve(client, command.timeout_s, now_ns)
    if op == OP_DELETE:
        return engine.delete(client, command.id)
    if op == OP_RELEASE:
        return engine.release(client, command.id, command.pri, command.delay_s, now_ns)
    if op == OP_BURY:
        return engine.bury(client, command.id, command.pri)
    if op == OP_TOUCH:
        return engine.touch(client, command.id, now_ns)
    if op == OP_USE:
        return engine.use(client, command.name, command.name_bytes)
    if op == OP_WATCH:
        return engine.watch(client, command.name, command.name_bytes)
    if op == OP_IGNORE:
        return engine.ignore(client, command.name, command.name_bytes)
    if op == OP_RESERVE_JOB:
        return engine.reserve_job(client, command.id, now_ns)
    if op == OP_KICK:
        return engine.kick(client, command.count, now_ns)
    if op == OP_KICK_JOB:
        return engine.kick_job(command.id, now_ns)
    if op == OP_PAUSE_TUBE:
        return engine.pause_tube(command.name, command.name_bytes, command.delay_s, now_ns)
    return dispatch_look(engine, client, command, now_ns)


cdef Reply dispatch_look(Engine engine, Client *client, Command *command, int64_t now_ns) noexcept:
    """The commands that change nothing."""
    cdef Buffer *text = &client.answer.text
    cdef Op op = command.op
    cdef bint there = True
    cdef Tube *tube
    if op == OP_PEEK:
        return engine.peek(client, command.id)
    if op == OP_PEEK_READY:
        return engine.peek_ready(client)
    if op == OP_PEEK_DELAYED:
        return engine.peek_delayed(client)
    if op == OP_PEEK_BURIED:
        return engine.peek_buried(client)
    if op == OP_LIST_TUBE_USED:
        return REPLY_USING
    if op == OP_LIST_TUBES:
        return engine.list_tubes(client, now_ns)
    if op == OP_LIST_TUBES_WATCHED:
        return engine.list_tubes_watched(client, now_ns)
    if op == OP_STATS:
        stats_text(engine, text, now_ns)
    elif op == OP_STATS_JOB:
        there = stats_job_text(engine, command.id, text, now_ns)
    else:
        tube = tube_find(&engine.tubes, command.name, command.name_bytes)
        if tube is NULL:
            return REPLY_NOT_FOUND
        stats_tube_text(tube, text, now_ns)
        return engine.begin_oldest(client, tube, now_ns)
    if text.failed:
        buffer_free(text)
        return REPLY_OUT_OF_MEMORY
    return REPLY_OK if there else REPLY_NOT_FOUND
