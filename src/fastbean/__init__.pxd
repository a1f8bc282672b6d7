# Marks the package for cimport: `from fastbean._core cimport Heap`.
