"""What tests of the tables see from the inside: it is compiled by them, and changes the tables of its process."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from fastbean.base.slab cimport Slab, slab_end
from fastbean.engine.client cimport Client, answer_add, answer_drop_jobs, answer_reserve
from fastbean.engine.command_table cimport ON_NOTHING, LOOKS, RIGHT_ADMIN, Run, add_command, rows
from fastbean.engine.job cimport Job, job_body, job_discard, job_new
from fastbean.net.outbox cimport Outbox, outbox_free
from fastbean.net.reply cimport outbox_answer
from fastbean.protocol.commands cimport FORM_NOTHING, words_count
from fastbean.protocol.replies cimport (
    AWAITS_BINLOG, REPLY_RESERVED, REPLY_TOUCHED, add_reply, check_replies, reply_rows,
)


def add(const char *word):
    """Add a command that states no right; whether it needs that of an administrator."""
    add_command(word, FORM_NOTHING, <Run>NULL, ON_NOTHING, LOOKS)
    return rows[words_count].right == RIGHT_ADMIN


def a_reply_that_states_nothing_awaits_the_binlog():
    reply_rows[<int>REPLY_TOUCHED].awaits = 77
    add_reply(REPLY_TOUCHED, b"TOUCHED\r\n")
    return reply_rows[<int>REPLY_TOUCHED].awaits == AWAITS_BINLOG


def drop_a_reply():
    """Check the table after one row has gone."""
    reply_rows[<int>REPLY_TOUCHED].text = NULL
    check_replies()


def answer_of(list bodies):
    """The bytes of one RESERVED answer with jobs of these bodies; their ids begin with 1."""
    cdef Slab slab
    cdef Client client
    cdef Outbox outbox
    cdef Job *job
    cdef Job *jobs[100]
    cdef uint32_t place
    memset(&slab, 0, sizeof(slab))
    memset(&client, 0, sizeof(client))
    memset(&outbox, 0, sizeof(outbox))
    if answer_reserve(&client.answer, len(bodies)) < 0:
        raise MemoryError
    for place, body in enumerate(bodies):
        job = job_new(&slab, len(body))
        memcpy(job_body(job), <const char *>body, len(body))
        answer_add(&client.answer, job, place + 1)
        jobs[place] = job
    outbox_answer(&outbox, REPLY_RESERVED, &client)
    assert client.answer.jobs_count == 0
    answer = outbox.bytes.data[:outbox.bytes.len]
    outbox_free(&outbox)
    answer_drop_jobs(&client.answer)
    for place in range(len(bodies)):
        job_discard(jobs[place])
    slab_end(&slab)
    return answer
