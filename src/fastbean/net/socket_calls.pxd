"""The system calls on a client's socket that differ between systems; code for Linux only is marked.

Receiving and sending are the two system calls of nearly every command. glibc's own functions are cancellation points:
in a process with threads, such as a server with a binlog, each takes two more locked instructions. No thread is ever
cancelled here. With 64 clients under ``-f 0`` that was a thirtieth of the processor's time.
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #if defined(__linux__)
    #include <sys/syscall.h>
    #include <unistd.h>
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
