/* Replaces functions that the compiled modules call, in this process, at any time: for libraries of the tests.
 *
 * `replace_calls` writes other functions into the tables by which the modules' own files call the C library. The
 * interpreter, the C library and everybody else call what they called before.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The replacement of the function with this name; NULL: it stays. */
typedef void *replacement_function(const char *name);

struct replacing {
    const char *modules;
    replacement_function *ours;
    long replaced;
};

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

static int replace_in_one(struct dl_phdr_info *info, size_t size, void *given) {
    struct replacing *all = given;
    const ElfW(Dyn) *entry = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    uintptr_t tables[2] = {0, 0};
    size_t bytes[2] = {0, 0};
    (void)size;
    if (!strstr(info->dlpi_name, all->modules)) return 0;
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
            void *function = all->ours(names + symbols[each[i].r_info >> 32].st_name);
            if (function) all->replaced += replace((void **)(info->dlpi_addr + each[i].r_offset), function);
        }
    }
    return 0;
}

/* Replaces calls of all loaded libraries whose path has the text `modules` in it. Returns how many kinds of calls of how
 * many libraries these are, 0 if this is not possible here. May be called again, for libraries that were loaded since. */
static long replace_calls(const char *modules, replacement_function *ours) {
    struct replacing all = {modules, ours, 0};
    dl_iterate_phdr(replace_in_one, &all);
    return all.replaced;
}
