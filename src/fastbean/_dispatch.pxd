"""Which function of the engine or of the statistics runs a command."""

from libc.stdint cimport int64_t

from fastbean._client cimport Client
from fastbean._engine cimport Engine
from fastbean._protocol cimport Command, Reply

cdef Reply dispatch(Engine engine, Client *client, Command *command, int64_t now_ns) noexcept
