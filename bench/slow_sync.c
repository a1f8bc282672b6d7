// Imitates a slower disk: fsync and fdatasync take SLOW_SYNC_US microseconds or longer.
//
// LD_PRELOAD loads it into a server. Each call syncs, then sleeps for the rest of the time.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

typedef int sync_function(int);

static sync_function *real_fsync, *real_fdatasync;
static int64_t least_ns;

__attribute__((constructor)) static void find(void)
{
    const char *text = getenv("SLOW_SYNC_US");
    least_ns = text ? strtoll(text, NULL, 10) * 1000 : 0;
    real_fsync = (sync_function *)dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (sync_function *)dlsym(RTLD_NEXT, "fdatasync");
}

static int slowly(sync_function *sync, int fd)
{
    static __thread int exact;
    struct timespec end;
    if (!exact) {
        prctl(PR_SET_TIMERSLACK, 1UL);  // else a wait may be 50 microseconds too long
        exact = 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t end_ns = (int64_t)end.tv_sec * 1000000000 + end.tv_nsec + least_ns;
    int result = sync(fd), error = errno;
    end.tv_sec = end_ns / 1000000000;
    end.tv_nsec = end_ns % 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
        ;
    errno = error;
    return result;
}

int fsync(int fd)
{
    return slowly(real_fsync, fd);
}

int fdatasync(int fd)
{
    return slowly(real_fdatasync, fd);
}
