"""Maps each command to the function of the engine or of the statistics that runs it."""

from libc.stdint cimport int64_t

from fastbean.engine.client cimport Client
from fastbean.engine.commands cimport Engine
from fastbean.protocol.replies cimport Reply
from fastbean.protocol.commands cimport Command

cdef Reply dispatch(Engine engine, Client *client, Command *command, int64_t now_ns) noexcept
