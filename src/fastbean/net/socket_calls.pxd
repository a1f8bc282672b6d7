"""The system calls on a client's socket that differ between systems; code for Linux only is marked.

Receiving and sending are the two system calls of nearly every command. glibc's own functions are cancellation points:
in a process with threads, such as a server with a binlog, each takes two more locked instructions. No thread is ever
cancelled here. With 64 clients under ``-f 0`` that was a thirtieth of the processor's time.
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <netdb.h>
    #include <poll.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #if defined(__linux__)
    #include <sys/syscall.h>
    #endif

    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #ifndef POLLRDHUP /* Linux only: elsewhere a client that has half-closed is noticed when its input is read */
    #define POLLRDHUP 0
    #endif

    static CYTHON_INLINE ssize_t socket_receive_once(int fd, struct iovec *where, int count) {
        struct msghdr message;
        if (count == 1)
    #ifdef SYS_recvfrom
            return syscall(SYS_recvfrom, fd, where->iov_base, where->iov_len, MSG_DONTWAIT, NULL, NULL);
    #else
            return recv(fd, where->iov_base, where->iov_len, MSG_DONTWAIT);
    #endif
        memset(&message, 0, sizeof message);
        message.msg_iov = where;
        message.msg_iovlen = count;
        return recvmsg(fd, &message, MSG_DONTWAIT);
    }

    static CYTHON_INLINE ssize_t socket_receive(int fd, struct iovec *where, int count) {
        ssize_t size;
        do
            size = socket_receive_once(fd, where, count);
        while (size < 0 && errno == EINTR);
        return size;
    }

    static CYTHON_INLINE ssize_t socket_send(int fd, const void *data, size_t size) {
    #ifdef SYS_sendto
        return syscall(SYS_sendto, fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    #else
        return send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    #endif
    }

    static CYTHON_INLINE ssize_t socket_send_pieces(int fd, struct iovec *pieces, int count) {
        struct msghdr message;
        memset(&message, 0, sizeof message);
        message.msg_iov = pieces;
        message.msg_iovlen = count;
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }

    enum { DRAINING_RECEIVES = 4 };

    static CYTHON_INLINE void socket_drain(int fd, void *scratch, size_t size) {
        struct iovec where = {scratch, size};
        int times;
        for (times = 0; times < DRAINING_RECEIVES && socket_receive(fd, &where, 1) >= (ssize_t)size; times++)
            ;
    }

    static CYTHON_INLINE int socket_has_unread(int fd) {
        char byte;
        return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0;
    }

    static CYTHON_INLINE int socket_accept(int listening, struct sockaddr_storage *peer, socklen_t *size) {
        int fd;
        do {
            *size = sizeof *peer;
    #if defined(__linux__)
            fd = accept4(listening, (struct sockaddr *)peer, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    #else
            fd = accept(listening, (struct sockaddr *)peer, size);
    #endif
        } while (fd < 0 && errno == EINTR);
    #if !defined(__linux__)
        if (fd >= 0 && (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)) {
            int error = errno;
            close(fd);
            errno = error;
            return -1;
        }
    #endif
        return fd;
    }

    static CYTHON_INLINE void socket_refuse(int fd, const char *text, size_t text_bytes, void *scratch, size_t size) {
        struct iovec where = {scratch, size};
        /* Unread bytes would make the close a reset, and the refusal could be lost. */
        if (socket_send(fd, text, text_bytes) >= 0 && shutdown(fd, SHUT_WR) == 0)
            socket_receive_once(fd, &where, 1);
        close(fd);
    }

    enum { PEER_NAME_BYTES = NI_MAXHOST + NI_MAXSERV + 4 };

    static CYTHON_INLINE int socket_peer_name(const struct sockaddr_storage *peer, socklen_t size, char *name) {
        char host[NI_MAXHOST], port[NI_MAXSERV];
        if (peer->ss_family == AF_UNIX)
            return snprintf(name, PEER_NAME_BYTES, "unix");
        if (getnameinfo((const struct sockaddr *)peer, size, host, sizeof host, port, sizeof port,
                        NI_NUMERICHOST | NI_NUMERICSERV) != 0)
            return snprintf(name, PEER_NAME_BYTES, "unknown");
        return snprintf(name, PEER_NAME_BYTES, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    }

    enum { PEER_CONNECTED, PEER_HALF_CLOSED, PEER_GONE };

    static CYTHON_INLINE int socket_peer(int fd) {
        struct pollfd asked = {fd, POLLRDHUP, 0};
        if (poll(&asked, 1, 0) <= 0)
            return PEER_CONNECTED;
        if (asked.revents & (POLLERR | POLLHUP | POLLNVAL))
            return PEER_GONE;
        return asked.revents & POLLRDHUP ? PEER_HALF_CLOSED : PEER_CONNECTED;
    }
    """
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t socket_receive(int fd, iovec *where, int count) noexcept nogil
    ssize_t socket_send(int fd, const void *data, size_t size) noexcept nogil
    ssize_t socket_send_pieces(int fd, iovec *pieces, int count) noexcept nogil
    # Receive and drop the unread bytes of the socket, up to four times `size`.
    void socket_drain(int fd, void *scratch, size_t size) noexcept nogil
    # Whether the socket has unread bytes.
    bint socket_has_unread(int fd) noexcept nogil
    # Ask the socket itself whether the client is connected, will send no more, or is gone.
    int PEER_CONNECTED, PEER_HALF_CLOSED, PEER_GONE
    int socket_peer(int fd) noexcept nogil
    cdef struct sockaddr_storage:
        unsigned short ss_family
    ctypedef unsigned int socklen_t
    # Accept a client as a non-blocking socket that no program inherits; fills in its address. -1 with errno.
    int socket_accept(int listening, sockaddr_storage *peer, socklen_t *size) noexcept nogil
    # Send a client this text, if it can be sent at once, and close its socket.
    void socket_refuse(int fd, const char *text, size_t text_bytes, void *scratch, size_t size) noexcept nogil
    # Write HOST:PORT, with brackets round an IPv6 address, or "unix"; returns its length, below PEER_NAME_BYTES.
    enum:
        PEER_NAME_BYTES
    int socket_peer_name(const sockaddr_storage *peer, socklen_t size, char *name) noexcept nogil
    int AF_UNIX
