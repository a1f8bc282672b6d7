// The floor: an epoll server that answers canned lines and keeps nothing.
//
// It does what no correct beanstalk server can leave out (wait, receive, find the lines, skip the bodies, send) and
// nothing else: it answers every put with INSERTED 1, every reserve with the same job, every delete with DELETED. No
// server can cost less, so the rates of servers are divided by its rate. It answers use, watch, ignore, stats,
// stats-tube and list-tubes so that the load tool can start and clean up.
//
// floor PORT BODY_BYTES     listens on 127.0.0.1; a reserve is answered with a job of BODY_BYTES.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_EVENTS = 512, LINE_BYTES = 256, RECEIVE_BYTES = 1 << 18, SEND_BYTES = 1 << 18 };

struct client {
    int fd;
    int held;               // bytes of a line whose end has not come yet
    uint64_t body_left;     // bytes of a body that are still to come, its CRLF included
    char line[LINE_BYTES];
};

static char received[RECEIVE_BYTES];
static char *sending;
static size_t send_room, send_size;
static char *job;
static size_t job_size;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int flush(struct client *client)
{
    size_t sent = 0;
    while (sent < send_size) {
        ssize_t count = send(client->fd, sending + sent, send_size - sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -1;
        sent += (size_t)count;
    }
    send_size = 0;
    return 0;
}

static int answer(struct client *client, const char *text, size_t size)
{
    if (send_room - send_size < size && flush(client) < 0)
        return -1;
    memcpy(sending + send_size, text, size);
    send_size += size;
    return 0;
}

#define ANSWER(client, text) answer(client, text, sizeof(text) - 1)

static int starts_with(const char *line, size_t size, const char *start, size_t start_size)
{
    return size >= start_size && memcmp(line, start, start_size) == 0;
}

#define STARTS_WITH(line, size, start) starts_with(line, size, start, sizeof(start) - 1)

// What comes before and after the requests that are timed.
static int serve_rare_line(struct client *client, const char *line, size_t size)
{
    if (STARTS_WITH(line, size, "use ")) {
        if (ANSWER(client, "USING ") < 0 || answer(client, line + 4, size - 4) < 0)
            return -1;
        return ANSWER(client, "\r\n");
    }
    if (STARTS_WITH(line, size, "watch "))
        return ANSWER(client, "WATCHING 2\r\n");
    if (STARTS_WITH(line, size, "ignore "))
        return ANSWER(client, "WATCHING 1\r\n");
    if (STARTS_WITH(line, size, "stats-tube "))
        return ANSWER(client, "NOT_FOUND\r\n");
    if (STARTS_WITH(line, size, "stats"))
        return ANSWER(client, "OK 21\r\n---\nversion: \"floor\"\n\r\n");
    if (STARTS_WITH(line, size, "list-tubes"))
        return ANSWER(client, "OK 14\r\n---\n- default\n\r\n");
    return ANSWER(client, "UNKNOWN_COMMAND\r\n");
}

// `size` leaves the CRLF out. The size of a put's body is the last number of its line.
static int serve_line(struct client *client, const char *line, size_t size)
{
    if (size > 4 && memcmp(line, "put ", 4) == 0) {
        const char *digit = line + size;
        uint64_t body_bytes = 0, unit = 1;
        while (*--digit != ' ') {
            body_bytes += unit * (uint64_t)(*digit - '0');
            unit *= 10;
        }
        client->body_left = body_bytes + 2;
        return ANSWER(client, "INSERTED 1\r\n");
    }
    if (size == 7 && memcmp(line, "reserve", 7) == 0)
        return answer(client, job, job_size);
    if (size > 7 && memcmp(line, "delete ", 7) == 0)
        return ANSWER(client, "DELETED\r\n");
    return serve_rare_line(client, line, size);
}

// A body that has come in part is answered at once: nothing is kept, so there is nothing to wait for.
static int serve_bytes(struct client *client, const char *at, const char *end)
{
    while (at < end) {
        if (client->body_left) {
            size_t step = (size_t)(end - at);
            if (step > client->body_left)
                step = client->body_left;
            client->body_left -= step;
            at += step;
            continue;
        }
        const char *found = memchr(at, '\n', (size_t)(end - at));
        size_t size = (size_t)((found ? found + 1 : end) - at);
        if (found && !client->held) {
            if (serve_line(client, at, size - 2) < 0)
                return -1;
        } else {
            if (client->held + size > LINE_BYTES)
                return -1;
            memcpy(client->line + client->held, at, size);
            client->held += (int)size;
            if (found) {
                size_t line_size = (size_t)client->held;
                client->held = 0;
                if (line_size < 2 || serve_line(client, client->line, line_size - 2) < 0)
                    return -1;
            }
        }
        at += size;
    }
    return send_size ? flush(client) : 0;
}

static void serve(struct client *client)
{
    ssize_t count = recv(client->fd, received, RECEIVE_BYTES, 0);
    if (count < 0 && errno == EINTR)
        return;
    send_size = 0;
    if (count <= 0 || serve_bytes(client, received, received + count) < 0) {
        close(client->fd);
        free(client);
    }
}

static void welcome(int listener, int epoll)
{
    int on = 1, fd = accept(listener, NULL, NULL);
    if (fd < 0)
        return;
    struct client *client = calloc(1, sizeof *client);
    if (!client)
        die("floor: memory");
    client->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("floor: epoll_ctl");
}

static int listen_on(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        die("floor: socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1024) < 0)
        die("floor: listen");
    return fd;
}

static void make_job(size_t body_bytes)
{
    job = malloc(body_bytes + 64);
    if (!job)
        die("floor: memory");
    size_t head = (size_t)sprintf(job, "RESERVED 1 %zu\r\n", body_bytes);
    memset(job + head, 'x', body_bytes);
    memcpy(job + head + body_bytes, "\r\n", 2);
    job_size = head + body_bytes + 2;
    send_room = job_size > SEND_BYTES ? job_size : SEND_BYTES;
    sending = malloc(send_room);
    if (!sending)
        die("floor: memory");
}

int main(int count, char **words)
{
    if (count != 3) {
        fprintf(stderr, "usage: floor PORT BODY_BYTES\n");
        return 2;
    }
    make_job(strtoul(words[2], NULL, 10));
    int listener = listen_on((uint16_t)atoi(words[1])), epoll = epoll_create1(0);
    struct epoll_event events[MAX_EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
        die("floor: epoll");
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            die("floor: epoll_wait");
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                serve(events[i].data.ptr);
            else
                welcome(listener, epoll);
        }
    }
}
