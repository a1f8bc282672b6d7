"""The client as the engine sees it: what it uses, watches, has reserved and waits for; and the set of all clients.

Watching a tube and asking whether it is watched cost O(1): a client that watches a few tubes searches them, one that
watches many has a table. Beginning and ending a wait costs O(tubes it watches).

A client whose command has no reply yet, and that does not wait for a job, is in one queue: of puts that wait for room,
of unfinished commands, or of queued replies. Joining and leaving a queue cost O(1), wherever in it the client is.
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, realloc

from fastbean.base.buffer cimport buffer_free
from fastbean._core cimport heap_free
from fastbean.engine.job cimport job_free
from fastbean.base.debug_counters cimport LIVE_CLIENTS, LIVE_WATCHES, live_born, live_gone
from fastbean.base.hash_table cimport hash_number, table_first, table_free, table_insert, table_remove
from fastbean.engine.tube cimport waiting_line_join, waiting_line_leave

cdef enum:
    FEW = 8                     # up to this many watched tubes are found faster without a table
    SMALLEST_CAP = 16


cdef Watch *client_watch_of(Client *client, Tube *tube) noexcept nogil:
    """The client's watch of `tube`, or NULL."""
    cdef uint32_t place
    if client.watch_table.count:
        # hash_number is one to one, so the first entry with this hash is the right one.
        return <Watch *>table_first(&client.watch_table, hash_number(tube.number))
    for place in range(client.watched_count):
        if client.watched[place].tube == tube:
            return client.watched[place]
    return NULL


cdef int make_table(Client *client) noexcept nogil:
    """Put every watch into the table. Returns 0, or -1 without memory (the table is empty again)."""
    cdef uint32_t place
    for place in range(client.watched_count):
        if table_insert(
            &client.watch_table, &client.watched[place].entry, hash_number(client.watched[place].tube.number)
        ) < 0:
            table_free(&client.watch_table)
            return -1
    return 0


cdef Watch *client_add_watch(Client *client, Tube *tube) noexcept nogil:
    """Watch a tube that is not watched yet. Returns NULL without memory (nothing changed)."""
    cdef uint32_t cap
    cdef Watch **watched
    cdef Watch *watch
    if client.watched_count == client.watched_cap:
        cap = client.watched_cap * 2 if client.watched_cap else 1
        watched = <Watch **>realloc(client.watched, cap * sizeof(Watch *))
        if watched is NULL:
            return NULL
        client.watched = watched
        client.watched_cap = cap
    watch = <Watch *>calloc(1, sizeof(Watch))
    if watch is NULL:
        return NULL
    if client.watched_count == FEW and make_table(client) < 0:
        free(watch)
        return NULL
    if client.watch_table.count:
        # Cannot fail: only the first insertion into an empty table can.
        table_insert(&client.watch_table, &watch.entry, hash_number(tube.number))
    live_born(LIVE_WATCHES)
    watch.tube = tube
    watch.client = client.number
    watch.place = client.watched_count
    client.watched[watch.place] = watch
    client.watched_count += 1
    tube.watching += 1
    return watch


cdef void client_remove_watch(Client *client, Watch *watch) noexcept nogil:
    """Stop watching a tube; the last watched one moves into its place. The client must not be waiting."""
    cdef Watch *last
    if client.watch_table.count:
        table_remove(&client.watch_table, &watch.entry)
        if client.watched_count == FEW + 1:
            table_free(&client.watch_table)
    client.watched_count -= 1
    last = client.watched[client.watched_count]
    client.watched[watch.place] = last
    last.place = watch.place
    watch.tube.watching -= 1
    live_gone(LIVE_WATCHES)
    free(watch)


cdef void client_start_waiting(Client *client) noexcept nogil:
    """Join the end of every watched tube's queue of waiting clients."""
    cdef uint32_t place
    client.waiting = True
    for place in range(client.watched_count):
        waiting_line_join(client.watched[place].tube, client.watched[place])


cdef void client_stop_waiting(Client *client) noexcept nogil:
    """Leave all of these queues."""
    cdef uint32_t place
    client.waiting = False
    for place in range(client.watched_count):
        waiting_line_leave(client.watched[place].tube, client.watched[place])


cdef void queue_join(ClientQueue *queue, Client *client) noexcept nogil:
    """Put a client that is in no queue at the end of this one."""
    client.queue = queue
    client.next = NULL
    client.previous = queue.last
    if queue.last is NULL:
        queue.first = client
    else:
        queue.last.next = client
    queue.last = client


cdef void queue_leave(Client *client) noexcept nogil:
    """Take a client out of the queue that it is in."""
    cdef ClientQueue *queue = client.queue
    client.queue = NULL
    if client.previous is NULL:
        queue.first = client.next
    else:
        client.previous.next = client.next
    if client.next is NULL:
        queue.last = client.previous
    else:
        client.next.previous = client.previous


cdef int make_room(ClientSet *clients) noexcept nogil:
    """Make room for one more client. Returns 0, or -1 without memory."""
    cdef uint32_t cap = clients.cap * 2 if clients.cap else SMALLEST_CAP
    cdef void *array
    if clients.free_count or clients.numbers < clients.cap:
        return 0
    array = realloc(clients.by_number, cap * sizeof(Client *))
    if array is NULL:
        return -1
    clients.by_number = <Client **>array
    array = realloc(clients.free_numbers, cap * sizeof(uint32_t))
    if array is NULL:
        return -1
    clients.free_numbers = <uint32_t *>array
    clients.cap = cap
    return 0


cdef Client *client_new(ClientSet *clients) noexcept nogil:
    """Make a client with a number of its own that uses and watches nothing yet; returns NULL without memory."""
    cdef Client *client
    if make_room(clients) < 0:
        return NULL
    client = <Client *>calloc(1, sizeof(Client))
    if client is NULL:
        return NULL
    live_born(LIVE_CLIENTS)
    if clients.free_count:
        clients.free_count -= 1
        client.number = clients.free_numbers[clients.free_count]
    else:
        client.number = clients.numbers
        clients.numbers += 1
    clients.by_number[client.number] = client
    return client


cdef void client_remove(ClientSet *clients, Client *client) noexcept nogil:
    """Free a client without reservations and watches; its number can be assigned again."""
    clients.by_number[client.number] = NULL
    clients.free_numbers[clients.free_count] = client.number
    clients.free_count += 1
    free_client(client)


cdef void free_client(Client *client) noexcept nogil:
    """Free the client, its watches and the job it was putting; other jobs and tubes are the engine's."""
    cdef uint32_t place
    for place in range(client.watched_count):
        live_gone(LIVE_WATCHES)
        free(client.watched[place])
    answer_drop_jobs(&client.answer)
    job_free(client.arriving)
    free(client.watched)
    table_free(&client.watch_table)
    heap_free(&client.reserved)
    heap_free(&client.returning)
    buffer_free(&client.answer.text)
    live_gone(LIVE_CLIENTS)
    free(client)


cdef void client_set_free(ClientSet *clients) noexcept nogil:
    """Free every client and the set."""
    cdef uint32_t number
    for number in range(clients.numbers):
        if clients.by_number[number] is not NULL:
            free_client(clients.by_number[number])
    free(clients.by_number)
    free(clients.free_numbers)
    clients.numbers = 0


cdef int answer_reserve(Answer *answer, uint32_t count) noexcept nogil:
    """Make room for `count` jobs in all. Returns 0, or -1 without memory (nothing changed)."""
    cdef CarriedJob *more
    if count <= answer.more_cap + 1:
        return 0
    more = <CarriedJob *>realloc(answer.more, (count - 1) * sizeof(CarriedJob))
    if more is NULL:
        return -1
    answer.more = more
    answer.more_cap = count - 1
    return 0


cdef void answer_drop_jobs(Answer *answer) noexcept nogil:
    """The reply was written, or will never be: it carries no job any more."""
    free(answer.more)
    answer.more = NULL
    answer.more_cap = 0
    answer.jobs_count = 0
