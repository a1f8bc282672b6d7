/* Between the compiled modules and the C library's allocator: counts their calls, and makes chosen ones fail.
 *
 * What it is: a library that is loaded into the process under test, at any time. `take_over` replaces the modules' calls
 * of malloc, calloc, realloc and posix_memalign by the functions below. The interpreter, the C library and everybody else
 * call the allocator as before, whichever it is: a sanitizer's too.
 * What it promises: without a rule every call is passed on; with one, exactly the chosen calls fail, with ENOMEM.
 * The calls of one thread at a time are counted rightly: let no other one of the modules' threads run meanwhile.
 */
#include "replace_calls.h"

#include <errno.h>
#include <stdlib.h>

static volatile long calls, failed;     /* since the rule was set */
static volatile long first, last;       /* which calls fail, counted from 1; last 0: there is no rule */

static int fails(void) {
    if (!last || ++calls < first || calls > last) return 0;
    failed++;
    errno = ENOMEM;
    return 1;
}

static void *our_malloc(size_t bytes) { return fails() ? NULL : malloc(bytes); }
static void *our_calloc(size_t count, size_t bytes) { return fails() ? NULL : calloc(count, bytes); }
static void *our_realloc(void *old, size_t bytes) { return fails() ? NULL : realloc(old, bytes); }
static int our_posix_memalign(void **memory, size_t alignment, size_t bytes) {
    return fails() ? ENOMEM : posix_memalign(memory, alignment, bytes);
}

static void *ours(const char *name) {
    if (strcmp(name, "malloc") == 0) return (void *)our_malloc;
    if (strcmp(name, "calloc") == 0) return (void *)our_calloc;
    if (strcmp(name, "realloc") == 0) return (void *)our_realloc;
    return strcmp(name, "posix_memalign") == 0 ? (void *)our_posix_memalign : NULL;
}

/* Takes over the calls of all loaded libraries whose path has this text in it; returns what replace_calls does. */
long take_over(const char *modules) { return replace_calls(modules, ours); }

/* From now on count anew, and let the calls from `from` to `to` fail. */
void set_rule(long from, long to) {
    calls = failed = 0;
    first = from;
    last = to;
}

/* Count no more, and let nothing fail. */
void end_rule(void) { last = 0; }

long calls_so_far(void) { return calls; }
long failed_so_far(void) { return failed; }
