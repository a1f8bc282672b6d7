/* A shim between a server and the C library, loaded with LD_PRELOAD.
 *
 * What it is: every call that changes files below FAULTS_DIR, and every byte sent to a client, passes through here.
 * It records them in order in FAULTS_TRACE (see faults.py for the format), and makes chosen calls fail.
 * What it promises: the order of the records is the order of the operations. A write or a send is done and recorded
 * under one lock; a sync, which may take long, has a record for its beginning and one for its end, so that what was
 * written during a sync is never taken for synced.
 * What it costs: one write to the trace for each call.
 *
 * FAULTS_CONTROL is a file of sizeof(struct control) bytes, shared with the test, that rules what fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_FD 65536
#define MAX_KINDS 32
#define OF_A_FAILURE 64             /* bytes that are recorded of what could not be written */

/* The numbers are part of the trace's format and of the control file. */
enum kind {
    CREATE, WRITE, SYNC, SYNC_FOLDER, ALLOCATE, TRUNCATE, RENAME, UNLINK, MKDIR, LINK, OPEN, CLOSE, SEND,
    SYNC_BEGIN, SYNC_FOLDER_BEGIN, READ, LOCK, DATA_SYNC    /* the last three are counted, and not recorded */
};

struct control {
    uint64_t records;               /* written to the trace so far */
    uint64_t calls[MAX_KINDS];      /* of each kind so far */
    uint64_t kinds;                 /* bit mask of the kinds that fail; 0: none */
    uint64_t matched;               /* calls of these kinds since the rule was set */
    uint64_t first, last;           /* which of them fail, counted from 1 */
    uint64_t error;                 /* errno of the failure; 0: a write is cut in half and tells so */
    uint64_t failed;                /* calls that failed by the rule */
    uint64_t held;                  /* bit mask of the kinds of calls that wait until their bit is gone */
    uint64_t least_bytes;           /* shorter writes do not wait */
    uint64_t waited[2];             /* calls that had to wait: of the first thread, which has the loop; and of others */
};

struct head {                       /* of a record; path, second path and data follow */
    uint32_t kind;
    int32_t fd;
    int64_t offset;                 /* of a write or an allocation; the new size; the peer's port; the open flags */
    int64_t length;                 /* of an allocation */
    int32_t result;
    uint32_t path_bytes, path2_bytes, data_bytes;
};

static struct control nowhere, *control = &nowhere;
static char folder[PATH_MAX];
static size_t folder_bytes;
static int trace_fd = -1;
static unsigned char tracked[MAX_FD];   /* 1: a file below the folder, 2: a folder */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sigset_t signals_before;         /* of the thread that has the lock */

/* No signal comes in between: Python's handler of signals writes to a socket, and would wait here for its own thread. */
static void take_lock(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_mutex_lock(&lock);
    signals_before = before;
}

static void drop_lock(void) {
    sigset_t before = signals_before;
    pthread_mutex_unlock(&lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

__attribute__((constructor)) static void start(void) {
    const char *dir = getenv("FAULTS_DIR"), *path = getenv("FAULTS_CONTROL"), *trace = getenv("FAULTS_TRACE");
    if (!dir || !path || !realpath(dir, folder)) return;
    folder_bytes = strlen(folder);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared != MAP_FAILED) control = shared;
    syscall(SYS_close, fd);
    if (trace) {
        fd = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        trace_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);
        syscall(SYS_close, fd);
    }
}

static void record(enum kind kind, int fd, int64_t offset, int64_t length, int64_t result, const char *path,
                   const char *path2, const struct iovec *data, int pieces) {
    struct head head = {kind, fd, offset, length, (int32_t)result, path ? strlen(path) : 0, path2 ? strlen(path2) : 0, 0};
    struct iovec all[64] = {{&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)path2, head.path2_bytes}};
    int used = 3;
    size_t left = result > 0 ? (size_t)result : result < 0 ? OF_A_FAILURE : 0;
    for (int i = 0; i < pieces && left && used < 64; i++) {
        size_t bytes = data[i].iov_len < left ? data[i].iov_len : left;
        all[used++] = (struct iovec){data[i].iov_base, bytes};
        head.data_bytes += bytes;
        left -= bytes;
    }
    int saved = errno;
    if (trace_fd >= 0) syscall(SYS_writev, trace_fd, all, used);
    control->records++;
    errno = saved;
}

/* Counts a call; -1 with errno set if it is to fail, 1 if it is a write to be cut, 0 otherwise. */
static int fails(enum kind kind) {
    control->calls[kind]++;
    if (!(control->kinds >> kind & 1)) return 0;
    control->matched++;
    if (control->matched < control->first || control->matched > control->last) return 0;
    control->failed++;
    if (control->error == 0) return 1;
    errno = (int)control->error;
    return -1;
}

/* Waits as long as calls of this kind are held. Without the lock: nothing else is to wait for this call. */
static void wait_while_held(enum kind kind, uint64_t bytes) {
    if (!(control->held >> kind & 1) || bytes < control->least_bytes) return;
    int saved = errno;
    __atomic_fetch_add(&control->waited[syscall(SYS_gettid) != getpid()], 1, __ATOMIC_SEQ_CST);
    while (*(volatile uint64_t *)&control->held >> kind & 1) usleep(500);
    errno = saved;
}

static int is_below(const char *path) {
    return folder_bytes && strncmp(path, folder, folder_bytes) == 0
        && (path[folder_bytes] == '/' || path[folder_bytes] == 0);
}

/* The absolute path; 1 if it lies below the folder. */
static int resolve(int dir, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (!folder_bytes || !path) return 0;
    if (path[0] != '/') {
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
            ssize_t got = readlink(link, base, sizeof base - 1);
            if (got < 0) return 0;
            base[got] = 0;
        }
    }
    if (snprintf(out, PATH_MAX, "%s%s%s", base, base[0] ? "/" : "", path) >= PATH_MAX) return 0;
    return is_below(out);
}

static int kind_of(int fd) { return fd >= 0 && fd < MAX_FD ? tracked[fd] : 0; }

/* Opening and closing */

static int open_any(int dir, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    struct stat status;
    if (!resolve(dir, path, full)) return REAL(openat)(dir, path, flags, mode);
    take_lock();
    int is_new = flags & O_CREAT && fstatat(AT_FDCWD, full, &status, AT_SYMLINK_NOFOLLOW) != 0;
    int fd = -1;
    if (!fails(is_new ? CREATE : OPEN)) fd = REAL(openat)(dir, path, flags, mode);
    int failure = errno;
    if (fd >= 0 && fd < MAX_FD) {
        fstat(fd, &status);
        tracked[fd] = S_ISDIR(status.st_mode) ? 2 : 1;
    }
    record(is_new ? CREATE : OPEN, fd, flags, 0, fd, full, NULL, NULL, 0);
    drop_lock();
    errno = failure;
    return fd;
}

#define MODE(flags) ({ mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } mode; })

EXPORT int open(const char *path, int flags, ...) { return open_any(AT_FDCWD, path, flags, MODE(flags)); }
EXPORT int open64(const char *path, int flags, ...) { return open_any(AT_FDCWD, path, flags | O_LARGEFILE, MODE(flags)); }
EXPORT int openat(int dir, const char *path, int flags, ...) { return open_any(dir, path, flags, MODE(flags)); }
EXPORT int openat64(int dir, const char *path, int flags, ...) { return open_any(dir, path, flags | O_LARGEFILE, MODE(flags)); }
EXPORT int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags | O_LARGEFILE, 0); }
EXPORT int __openat_2(int dir, const char *path, int flags) { return open_any(dir, path, flags, 0); }
EXPORT int __openat64_2(int dir, const char *path, int flags) { return open_any(dir, path, flags | O_LARGEFILE, 0); }
EXPORT int creat(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
EXPORT int creat64(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

EXPORT int close(int fd) {
    if (fd == trace_fd && fd >= 0) return 0;
    if (!kind_of(fd)) return REAL(close)(fd);
    take_lock();
    tracked[fd] = 0;
    int result = REAL(close)(fd), failure = errno;
    record(CLOSE, fd, 0, 0, result, NULL, NULL, NULL, 0);
    drop_lock();
    errno = failure;
    return result;
}

/* Writing and sending */

static int peer_port(int fd) {
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    if (getpeername(fd, (struct sockaddr *)&address, &bytes) != 0 || address.ss_family != AF_INET) return -1;
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

static ssize_t finish(enum kind kind, int fd, off_t offset, ssize_t result, const struct iovec *data, int pieces) {
    int failure = errno;
    record(kind, fd, offset, 0, result, NULL, NULL, data, pieces);
    drop_lock();
    errno = failure;
    return result;
}

/* offset -1: where the file stands */
static ssize_t write_any(int fd, const struct iovec *data, int pieces, off_t offset) {
    struct iovec half = {NULL, 0};
    uint64_t bytes = 0;
    for (int piece = 0; piece < pieces; piece++) bytes += data[piece].iov_len;
    wait_while_held(WRITE, bytes);
    take_lock();
    int verdict = fails(WRITE);
    if (verdict > 0 && pieces > 0) {
        half = (struct iovec){data[0].iov_base, (data[0].iov_len + 1) / 2};
        data = &half;
        pieces = 1;
    }
    ssize_t result = -1;
    if (verdict >= 0)
        result = offset < 0 ? syscall(SYS_writev, fd, data, pieces)
                            : syscall(SYS_pwritev, fd, data, pieces, (long)offset, 0L);
    int failure = errno;
    if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - (result > 0 ? result : 0);
    errno = failure;
    return finish(WRITE, fd, offset, result, data, pieces);
}

static ssize_t send_any(int fd, const struct iovec *data, int pieces, int flags) {
    struct msghdr message = {0};
    message.msg_iov = (struct iovec *)data;
    message.msg_iovlen = pieces;
    int port = peer_port(fd);
    take_lock();
    control->calls[SEND]++;
    ssize_t result = syscall(SYS_sendmsg, fd, &message, flags);
    return finish(SEND, fd, port, result, data, pieces);
}

static int is_socket(int fd) {
    struct stat status;
    return folder_bytes && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

EXPORT ssize_t write(int fd, const void *data, size_t bytes) {
    struct iovec one = {(void *)data, bytes};
    if (kind_of(fd)) return write_any(fd, &one, 1, -1);
    if (is_socket(fd)) return send_any(fd, &one, 1, 0);
    return REAL(write)(fd, data, bytes);
}

EXPORT ssize_t writev(int fd, const struct iovec *data, int pieces) {
    if (kind_of(fd)) return write_any(fd, data, pieces, -1);
    if (is_socket(fd)) return send_any(fd, data, pieces, 0);
    return REAL(writev)(fd, data, pieces);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
    struct iovec one = {(void *)data, bytes};
    return kind_of(fd) ? write_any(fd, &one, 1, offset) : REAL(pwrite)(fd, data, bytes, offset);
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) { return pwrite(fd, data, bytes, offset); }

EXPORT ssize_t pwritev(int fd, const struct iovec *data, int pieces, off_t offset) {
    return kind_of(fd) ? write_any(fd, data, pieces, offset) : REAL(pwritev)(fd, data, pieces, offset);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *data, int pieces, off64_t offset) {
    return pwritev(fd, data, pieces, offset);
}

EXPORT ssize_t send(int fd, const void *data, size_t bytes, int flags) {
    struct iovec one = {(void *)data, bytes};
    return folder_bytes ? send_any(fd, &one, 1, flags) : REAL(send)(fd, data, bytes, flags);
}

EXPORT ssize_t sendto(int fd, const void *data, size_t bytes, int flags, const struct sockaddr *to, socklen_t to_bytes) {
    return folder_bytes && !to ? send(fd, data, bytes, flags) : REAL(sendto)(fd, data, bytes, flags, to, to_bytes);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    if (!folder_bytes || message->msg_name) return REAL(sendmsg)(fd, message, flags);
    return send_any(fd, message->msg_iov, (int)message->msg_iovlen, flags);
}

/* A server may send without the C library's function. Nobody knows how many arguments there are: six, as the library. */
EXPORT long syscall(long number, ...) {
    long arguments[6];
    va_list given;
    va_start(given, number);
    for (int place = 0; place < 6; place++) arguments[place] = va_arg(given, long);
    va_end(given);
    if (number == SYS_sendto && folder_bytes)
        return sendto(
            (int)arguments[0], (const void *)arguments[1], (size_t)arguments[2], (int)arguments[3],
            (const struct sockaddr *)arguments[4], (socklen_t)arguments[5]);
    return REAL(syscall)(
        number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

/* Reading and locking: they change nothing, and are not recorded */

static int fails_unrecorded(enum kind kind) {
    take_lock();
    int verdict = fails(kind), failure = errno;
    drop_lock();
    errno = failure;
    return verdict < 0;
}

EXPORT ssize_t read(int fd, void *data, size_t bytes) {
    return kind_of(fd) == 1 && fails_unrecorded(READ) ? -1 : REAL(read)(fd, data, bytes);
}

EXPORT ssize_t pread(int fd, void *data, size_t bytes, off_t offset) {
    return kind_of(fd) == 1 && fails_unrecorded(READ) ? -1 : REAL(pread)(fd, data, bytes, offset);
}
EXPORT ssize_t pread64(int fd, void *data, size_t bytes, off64_t offset) { return pread(fd, data, bytes, offset); }

EXPORT int fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (kind_of(fd) == 1 && (command == F_SETLK || command == F_OFD_SETLK) && fails_unrecorded(LOCK)) return -1;
    return REAL(fcntl)(fd, command, argument);
}
EXPORT int fcntl64(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return fcntl(fd, command, argument);
}

/* Syncing */

static int sync_any(int fd, int (*real)(int)) {
    int what = kind_of(fd);
    if (!what) return real(fd);
    take_lock();
    record(what == 2 ? SYNC_FOLDER_BEGIN : SYNC_BEGIN, fd, 0, 0, 0, NULL, NULL, NULL, 0);
    int verdict = fails(what == 2 ? SYNC_FOLDER : SYNC), failure = errno;
    drop_lock();
    int result = -1;
    if (what == 1) wait_while_held(SYNC, UINT64_MAX);
    if (verdict >= 0) {
        result = real(fd);
        failure = errno;
    }
    take_lock();
    record(what == 2 ? SYNC_FOLDER : SYNC, fd, 0, 0, result, NULL, NULL, NULL, 0);
    drop_lock();
    errno = failure;
    return result;
}

EXPORT int fsync(int fd) { return sync_any(fd, REAL(fsync)); }
EXPORT int fdatasync(int fd) {
    return kind_of(fd) == 1 && fails_unrecorded(DATA_SYNC) ? -1 : sync_any(fd, REAL(fdatasync));
}

/* Space */

static int change_space(enum kind kind, int fd, int mode, off_t offset, off_t length) {
    take_lock();
    int result = -1;
    if (fails(kind) >= 0)
        result = kind == TRUNCATE ? (int)syscall(SYS_ftruncate, fd, (long)offset)
                                  : (int)syscall(SYS_fallocate, fd, mode, (long)offset, (long)length);
    int failure = errno;
    record(kind, fd, offset, length, result, NULL, NULL, NULL, 0);
    drop_lock();
    errno = failure;
    return result;
}

EXPORT int ftruncate(int fd, off_t size) {
    return kind_of(fd) ? change_space(TRUNCATE, fd, 0, size, 0) : REAL(ftruncate)(fd, size);
}
EXPORT int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
    return kind_of(fd) ? change_space(ALLOCATE, fd, mode, offset, length) : REAL(fallocate)(fd, mode, offset, length);
}
EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }

EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
    if (!kind_of(fd)) return REAL(posix_fallocate)(fd, offset, length);
    int saved = errno, result = change_space(ALLOCATE, fd, 0, offset, length) ? errno : 0;
    errno = saved;
    return result;
}
EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

/* Names */

static int do_change_name(enum kind kind, int dir, const char *path, int dir2, const char *path2, unsigned flags) {
    switch (kind) {
        case RENAME: return (int)syscall(SYS_renameat2, dir, path, dir2, path2, flags);
        case LINK: return (int)syscall(SYS_linkat, dir, path, dir2, path2, flags);
        case MKDIR: return (int)syscall(SYS_mkdirat, dir, path, flags);
        default: return (int)syscall(SYS_unlinkat, dir, path, flags);
    }
}

/* What is not below the folder goes on without the lock: a sanitizer's library makes its folders before its own locks
 * are ready. */
static int change_name(enum kind kind, int dir, const char *path, int dir2, const char *path2, unsigned flags) {
    char full[PATH_MAX] = "", full2[PATH_MAX] = "";
    if (!(resolve(dir, path, full) | (path2 ? resolve(dir2, path2, full2) : 0)))
        return do_change_name(kind, dir, path, dir2, path2, flags);
    int result = -1;
    take_lock();
    if (fails(kind) >= 0) result = do_change_name(kind, dir, path, dir2, path2, flags);
    int failure = errno;
    record(kind, -1, 0, 0, result, full, path2 ? full2 : NULL, NULL, 0);
    drop_lock();
    errno = failure;
    return result;
}

EXPORT int rename(const char *from, const char *to) { return change_name(RENAME, AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int renameat(int dir, const char *from, int dir2, const char *to) { return change_name(RENAME, dir, from, dir2, to, 0); }
EXPORT int renameat2(int dir, const char *from, int dir2, const char *to, unsigned flags) {
    return change_name(RENAME, dir, from, dir2, to, flags);
}
EXPORT int link(const char *from, const char *to) { return change_name(LINK, AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int linkat(int dir, const char *from, int dir2, const char *to, int flags) {
    return change_name(LINK, dir, from, dir2, to, (unsigned)flags);
}
EXPORT int unlink(const char *path) { return change_name(UNLINK, AT_FDCWD, path, 0, NULL, 0); }
EXPORT int unlinkat(int dir, const char *path, int flags) { return change_name(UNLINK, dir, path, 0, NULL, (unsigned)flags); }
EXPORT int rmdir(const char *path) { return change_name(UNLINK, AT_FDCWD, path, 0, NULL, AT_REMOVEDIR); }
EXPORT int mkdir(const char *path, mode_t mode) { return change_name(MKDIR, AT_FDCWD, path, 0, NULL, mode); }
EXPORT int mkdirat(int dir, const char *path, mode_t mode) { return change_name(MKDIR, dir, path, 0, NULL, mode); }
