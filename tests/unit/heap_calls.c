/* Counts what a process does to the C library's heap as a whole; loaded with LD_PRELOAD. The C library's own calls of
 * these functions do not pass here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

long mallopt_calls, malloc_trim_calls, sbrk_calls, huge_page_calls;

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

int mallopt(int parameter, int value) {
    mallopt_calls++;
    return REAL("mallopt", int (*)(int, int))(parameter, value);
}

int malloc_trim(size_t pad) {
    malloc_trim_calls++;
    return REAL("malloc_trim", int (*)(size_t))(pad);
}

void *sbrk(intptr_t increment) {
    sbrk_calls++;
    return REAL("sbrk", void *(*)(intptr_t))(increment);
}

int madvise(void *address, size_t length, int advice) {
    if (advice == MADV_HUGEPAGE) huge_page_calls++;
    return REAL("madvise", int (*)(void *, size_t, int))(address, length, advice);
}
