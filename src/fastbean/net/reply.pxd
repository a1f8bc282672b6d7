"""Replies, as they are written to an outbox."""

from fastbean.engine.client cimport Client
from fastbean.net.outbox cimport Outbox
from fastbean.protocol.replies cimport Reply

cdef void outbox_answer(Outbox *outbox, Reply reply, Client *client) noexcept nogil
