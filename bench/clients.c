// Clients that fastbean's load tool does not have: visitors, whose connections are short, and one that asks now and then.
//
// clients visit PORT VISITORS OPERATIONS RATE: VISITORS at once connect, use a tube, put a job, quit, and wait for the
// end of the connection, until OPERATIONS visits are over. RATE 0: each visitor comes again at once. Otherwise visit i
// is due at i / RATE seconds; its time counts from then, so it includes a wait for a free visitor.
// clients burst PORT CONNECTIONS BURSTS PID: while the server, process PID, is stopped, CONNECTIONS are made, each with
// all requests of a visit in one piece; then the server continues. Only the time until their ends counts: the server has
// all of its work at once, and the client, which costs as much as a server while it connects, cannot be what is slow.
// clients ask PORT SECONDS: one client sends list-tube-used, waits for the reply and half a millisecond, and so on.
//
// Prints the number of operations, the seconds, and the 50th, the 99th percentile and the longest time in nanoseconds.
// Every reply is checked; a wrong one ends the program with status 1.
//
// A visitor costs as few system calls as possible, because the client shall not be slower than the server: a connection
// over loopback is complete when connect returns, so nothing waits for it; and as the server closes the connection first,
// the client's port is free again at once.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SILENCE_MS 20000    // a server that is silent for longer has failed
#define EVENTS 512
#define PAUSE_NS 500000

static const char *const requests[] = {"use visits\r\n", "put 0 0 60 5\r\nhello\r\n", "quit\r\n"};
static const char *const replies[] = {"USING visits\r\n", "INSERTED ", ""};
enum { USE, PUT, QUIT };

struct visitor {
    int fd, step;
    int64_t begun_ns;
    size_t held;
    char line[64];
};

static int64_t *times_ns, count, wanted;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int connected(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) fail("socket");
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
    return fd;
}

static void send_step(struct visitor *visitor)
{
    const char *request = requests[visitor->step];
    visitor->held = 0;
    if (send(visitor->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request)) fail("send");
}

static void come(struct visitor *visitor, int epoll, int port, int64_t begun_ns)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = visitor};
    visitor->fd = connected(port);
    visitor->step = USE;
    visitor->begun_ns = begun_ns;
    send_step(visitor);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, visitor->fd, &event) < 0) fail("epoll_ctl");
}

// Takes what is ready; returns whether the visit is over.
static int go_on(struct visitor *visitor)
{
    const char *reply;
    ssize_t size;
    size = recv(visitor->fd, visitor->line + visitor->held, sizeof visitor->line - visitor->held, MSG_DONTWAIT);
    if (size < 0) {
        if (errno == EAGAIN) return 0;
        fail("recv");
    }
    if (size == 0) {
        if (visitor->step != QUIT) fail("the server closed a connection");
        close(visitor->fd);
        times_ns[count++] = now_ns() - visitor->begun_ns;
        return 1;
    }
    visitor->held += size;
    if (visitor->line[visitor->held - 1] != '\n') return 0;
    reply = replies[visitor->step];
    if (visitor->step == QUIT || strncmp(visitor->line, reply, strlen(reply)) != 0) {
        fprintf(stderr, "wrong reply to %s%.*s", requests[visitor->step], (int)visitor->held, visitor->line);
        exit(1);
    }
    visitor->step++;
    send_step(visitor);
    return 0;
}

static void visit(int port, int visitors, double rate)
{
    struct visitor *all = calloc(visitors, sizeof *all), **idle = calloc(visitors, sizeof *idle);
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(0), idle_count = 0, ready;
    int64_t start_ns = now_ns(), begun = 0, heard_ns = start_ns, due_ns, wait_ns;
    for (int i = visitors; i-- > 0;) idle[idle_count++] = &all[i];
    while (count < wanted) {
        wait_ns = 1000000000;
        while (idle_count && begun < wanted) {
            due_ns = rate > 0 ? start_ns + (int64_t)(begun / rate * 1e9) : now_ns();
            wait_ns = due_ns - now_ns();
            if (wait_ns > 0) break;
            begun++;
            come(idle[--idle_count], epoll, port, due_ns);
            wait_ns = 1000000000;
        }
        struct timespec wait = {wait_ns / 1000000000, wait_ns % 1000000000};
        struct pollfd waiting = {epoll, POLLIN, 0};
        if (rate > 0) ppoll(&waiting, 1, &wait, NULL);  // finer than the milliseconds of epoll_wait
        ready = epoll_wait(epoll, events, EVENTS, rate > 0 ? 0 : 1000);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        if (ready > 0) heard_ns = now_ns();
        else if (now_ns() - heard_ns > SILENCE_MS * 1000000LL) fail("the server is silent");
        for (int i = 0; i < ready; i++)
            if (go_on(events[i].data.ptr)) idle[idle_count++] = events[i].data.ptr;
    }
}

static double burst(int port, int connections, pid_t server)
{
    static const char all[] = "use visits\r\nput 0 0 60 5\r\nhello\r\nquit\r\n";
    struct timespec pause = {0, PAUSE_NS * 4};
    int *fds = calloc(connections, sizeof *fds);
    char text[64];
    size_t held;
    ssize_t size;
    int64_t start_ns;
    if (kill(server, SIGSTOP) < 0) fail("SIGSTOP");
    nanosleep(&pause, NULL);
    for (int i = 0; i < connections; i++) {
        fds[i] = connected(port);
        if (send(fds[i], all, sizeof all - 1, MSG_NOSIGNAL) != sizeof all - 1) fail("send");
    }
    start_ns = now_ns();
    if (kill(server, SIGCONT) < 0) fail("SIGCONT");
    for (int i = 0; i < connections; i++) {
        for (held = 0; (size = recv(fds[i], text + held, sizeof text - held, 0)) > 0;) held += size;
        if (size < 0 || held < 24 || memcmp(text, "USING visits\r\nINSERTED ", 23) != 0) fail("wrong replies");
        times_ns[count++] = now_ns() - start_ns;
        close(fds[i]);
    }
    free(fds);
    return (times_ns[count - 1]) / 1e9;
}

static void ask(int port, double seconds)
{
    static const char request[] = "list-tube-used\r\n", reply[] = "USING default\r\n";
    struct timespec pause = {0, PAUSE_NS};
    int fd = connected(port);
    int64_t end_ns = now_ns() + (int64_t)(seconds * 1e9), sent_ns;
    char line[sizeof reply];
    while ((sent_ns = now_ns()) < end_ns && count < wanted) {
        if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0) fail("send");
        if (recv(fd, line, sizeof reply - 1, MSG_WAITALL) != sizeof reply - 1 || memcmp(line, reply, sizeof reply - 1))
            fail("wrong reply to list-tube-used");
        times_ns[count++] = now_ns() - sent_ns;
        nanosleep(&pause, NULL);
    }
}

static int by_size(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    int visits = argc == 6 && strcmp(mode, "visit") == 0, bursts = argc == 6 && strcmp(mode, "burst") == 0;
    double seconds = 0;
    int64_t start_ns = now_ns();
    if (!visits && !bursts && !(argc == 4 && strcmp(mode, "ask") == 0)) return 2;
    wanted = visits ? atoll(argv[4]) : bursts ? atoll(argv[3]) * atoll(argv[4])
                                              : (int64_t)(atof(argv[3]) * 1e9 / PAUSE_NS) + 1;
    times_ns = calloc(wanted, sizeof *times_ns);
    if (times_ns == NULL) fail("calloc");
    if (visits) visit(atoi(argv[2]), atoi(argv[3]), atof(argv[5]));
    while (bursts && count < wanted) seconds += burst(atoi(argv[2]), atoi(argv[3]), atoi(argv[5]));
    if (!visits && !bursts) ask(atoi(argv[2]), atof(argv[3]));
    if (!bursts) seconds = (now_ns() - start_ns) / 1e9;
    if (count == 0) return 1;
    qsort(times_ns, count, sizeof *times_ns, by_size);
    printf("%lld %.6f %lld %lld %lld\n", (long long)count, seconds, (long long)times_ns[count / 2],
           (long long)times_ns[count - 1 - count / 100], (long long)times_ns[count - 1]);
    return 0;
}
