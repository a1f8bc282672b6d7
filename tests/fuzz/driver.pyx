"""Runs libFuzzer from Python. It must be preloaded, so that its coverage callbacks replace those of the sanitizer."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdlib cimport calloc

from check cimport Target

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*target)(const uint8_t *data, size_t size));
    """
    int LLVMFuzzerRunDriver(int *argc, char ***argv, Target target)

cdef list kept = []                     # libFuzzer reads its words to the end


def fuzz(capsule, list words):
    """Fuzz until libFuzzer is done; it then ends the process by itself.

    Args:
        capsule: the target.
        words: libFuzzer's command line, the program's name first, as bytes.
    """
    cdef int count = <int>len(words)
    cdef char **argv = <char **>calloc(count + 1, sizeof(char *))
    if argv is NULL:
        raise MemoryError("no memory for the words of a command line")
    kept.extend(words)
    for place in range(count):
        argv[place] = words[place]
    return LLVMFuzzerRunDriver(&count, &argv, <Target>PyCapsule_GetPointer(capsule, b"target"))
