/* Between the interpreter and its allocators: counts the calls of one thread, and makes one of them fail. And between the
 * compiled modules and their files: which have records that no sync has covered yet.
 *
 * What it is: a library that is loaded into the process under test. `take_over` wraps the allocators of all three domains
 * of the interpreter (RAW, MEM and OBJ), once, for good; and replaces the modules' calls of pwrite, fsync and fdatasync.
 * What it promises: without a rule every call is passed on. With one, the chosen calls of the chosen thread fail, whatever
 * other threads do; the interpreter reports that as a MemoryError. Frees and what comes from a free list do not count.
 * A file is dirty from the beginning of a pwrite until a sync that began after the end of that pwrite has succeeded.
 */
#include "replace_calls.h"

#include <pthread.h>
#include <sys/stat.h>

#define DOMAINS 3
#define MAX_FILES 4096              /* that are written between two calls of forget_files; the rest counts as clean */

/* As in Python's pymem.h, which not every system has. */
struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t bytes);
    void *(*calloc)(void *ctx, size_t count, size_t bytes);
    void *(*realloc)(void *ctx, void *old, size_t bytes);
    void (*free)(void *ctx, void *memory);
};

extern void PyMem_GetAllocator(int domain, struct allocator *allocator);
extern void PyMem_SetAllocator(int domain, struct allocator *allocator);

static struct allocator real[DOMAINS];
static volatile unsigned long thread;   /* whose calls count; 0: nobody's */
static volatile long calls, failed;     /* since the rule was set */
static volatile long chosen;            /* which call fails, counted from 1; 0: none */

static int fails(void) {
    if (thread == 0 || thread != (unsigned long)pthread_self() || ++calls != chosen) return 0;
    failed++;
    return 1;
}

static void *our_malloc(void *ctx, size_t bytes) {
    struct allocator *its = ctx;
    return fails() ? NULL : its->malloc(its->ctx, bytes);
}

static void *our_calloc(void *ctx, size_t count, size_t bytes) {
    struct allocator *its = ctx;
    return fails() ? NULL : its->calloc(its->ctx, count, bytes);
}

static void *our_realloc(void *ctx, void *old, size_t bytes) {
    struct allocator *its = ctx;
    return fails() ? NULL : its->realloc(its->ctx, old, bytes);
}

static void our_free(void *ctx, void *memory) {
    struct allocator *its = ctx;
    its->free(its->ctx, memory);
}

/* Files, by inode */

static struct { ino_t inode; long writes, synced; } files[MAX_FILES];
static int file_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The place of a file; -1 if it is not in the table, and has no room there or is not to be added. */
static int place_of(ino_t inode, int add) {
    for (int place = 0; place < file_count; place++)
        if (files[place].inode == inode) return place;
    if (!add || file_count == MAX_FILES) return -1;
    files[file_count].inode = inode;
    files[file_count].writes = files[file_count].synced = 0;
    return file_count++;
}

static int place_of_fd(int fd, int add) {
    struct stat status;
    return fstat(fd, &status) == 0 ? place_of(status.st_ino, add) : -1;
}

static ssize_t our_pwrite(int fd, const void *data, size_t bytes, off_t offset) {
    pthread_mutex_lock(&lock);
    int place = place_of_fd(fd, 1);
    if (place >= 0) files[place].writes++;
    pthread_mutex_unlock(&lock);
    ssize_t result = pwrite(fd, data, bytes, offset);
    pthread_mutex_lock(&lock);
    if (place >= 0 && place < file_count) files[place].writes++;
    pthread_mutex_unlock(&lock);
    return result;
}

static int synced(int fd, int (*sync)(int)) {
    pthread_mutex_lock(&lock);
    int place = place_of_fd(fd, 0);
    long writes = place >= 0 ? files[place].writes : 0;
    pthread_mutex_unlock(&lock);
    int result = sync(fd);
    pthread_mutex_lock(&lock);
    if (result == 0 && place >= 0 && place < file_count && files[place].synced < writes) files[place].synced = writes;
    pthread_mutex_unlock(&lock);
    return result;
}

static int our_fsync(int fd) { return synced(fd, fsync); }
static int our_fdatasync(int fd) { return synced(fd, fdatasync); }

static void *ours(const char *name) {
    if (strcmp(name, "pwrite") == 0 || strcmp(name, "pwrite64") == 0) return (void *)our_pwrite;
    if (strcmp(name, "fsync") == 0) return (void *)our_fsync;
    return strcmp(name, "fdatasync") == 0 ? (void *)our_fdatasync : NULL;
}

/* Takes over everything; may be called again, for modules that were loaded since. To be called with the GIL, while no
 * server runs. Returns what replace_calls does. */
long take_over(const char *modules) {
    for (int domain = 0; domain < DOMAINS && !real[domain].malloc; domain++) {
        struct allocator wrapped = {&real[domain], our_malloc, our_calloc, our_realloc, our_free};
        PyMem_GetAllocator(domain, &real[domain]);
        PyMem_SetAllocator(domain, &wrapped);
    }
    return replace_calls(modules, ours);
}

/* From now on count the calls of this thread (a pthread_t) anew, and let one of them fail. */
void set_rule(unsigned long its_thread, long number) {
    thread = 0;
    calls = failed = 0;
    chosen = number;
    thread = its_thread;
}

/* Count no more, and let nothing fail. */
void end_rule(void) { thread = 0; }

long calls_so_far(void) { return calls; }
long failed_so_far(void) { return failed; }

/* Whether the file has records that no sync has covered. */
int is_dirty(unsigned long inode) {
    pthread_mutex_lock(&lock);
    int place = place_of(inode, 0), dirty = place >= 0 && files[place].synced < files[place].writes;
    pthread_mutex_unlock(&lock);
    return dirty;
}

/* Forget all files: the inodes of those that are gone are used again. */
void forget_files(void) {
    pthread_mutex_lock(&lock);
    file_count = 0;
    pthread_mutex_unlock(&lock);
}
