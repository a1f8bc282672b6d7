/* Between the compiled modules and the C library's allocator: counts their calls, and makes chosen ones fail.
 *
 * What it is: a library that is loaded into the process under test, at any time. `take_over` writes the functions below
 * into the tables by which the modules' own files call malloc, calloc, realloc and posix_memalign. The interpreter, the
 * C library and everybody else call the allocator as before, whichever it is: a sanitizer's too.
 * What it promises: without a rule every call is passed on; with one, exactly the chosen calls fail, with ENOMEM.
 * The calls of one thread at a time are counted rightly: let no other one of the modules' threads run meanwhile.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* glibc has added the load address to what the dynamic section points to, musl has not. */
static uintptr_t address(const struct dl_phdr_info *info, uintptr_t pointer) {
    return pointer < info->dlpi_addr ? info->dlpi_addr + pointer : pointer;
}

static int replace(void **slot, void *function) {
    uintptr_t page = (uintptr_t)slot & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    if (mprotect((void *)page, (uintptr_t)(slot + 1) - page, PROT_READ | PROT_WRITE) != 0) return 0;
    *slot = function;
    return 1;
}

static long taken;

static int take_over_one(struct dl_phdr_info *info, size_t size, void *modules) {
    const ElfW(Dyn) *entry = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    uintptr_t tables[2] = {0, 0};
    size_t bytes[2] = {0, 0};
    (void)size;
    if (!strstr(info->dlpi_name, modules)) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
            entry = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    for (; entry && entry->d_tag != DT_NULL; entry++) switch (entry->d_tag) {
        case DT_SYMTAB: symbols = (const ElfW(Sym) *)address(info, entry->d_un.d_ptr); break;
        case DT_STRTAB: names = (const char *)address(info, entry->d_un.d_ptr); break;
        case DT_RELA: tables[0] = address(info, entry->d_un.d_ptr); break;
        case DT_RELASZ: bytes[0] = entry->d_un.d_val; break;
        case DT_JMPREL: tables[1] = address(info, entry->d_un.d_ptr); break;
        case DT_PLTRELSZ: bytes[1] = entry->d_un.d_val; break;
        default: break;
    }
    for (int table = 0; table < 2 && symbols && names; table++) {
        const ElfW(Rela) *each = (const ElfW(Rela) *)tables[table];
        for (size_t i = 0; i < bytes[table] / sizeof *each; i++) {
            /* The symbol is in the upper half of r_info on all machines of 64 bits. */
            void *function = ours(names + symbols[each[i].r_info >> 32].st_name);
            if (function) taken += replace((void **)(info->dlpi_addr + each[i].r_offset), function);
        }
    }
    return 0;
}

/* Takes over the calls of all loaded libraries whose path has this text in it. Returns how many kinds of calls of how
 * many libraries these are, 0 if this is not possible here. May be called again, for libraries that were loaded since. */
long take_over(const char *modules) {
    taken = 0;
    dl_iterate_phdr(take_over_one, (void *)modules);
    return taken;
}

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
