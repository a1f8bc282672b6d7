"""The priority heap for Python: the public name of ``fastbean._core``, whose objects it exports as they are.

From Cython, ``cimport`` the heap from ``fastbean._core``; see docs/cimport.md.
"""

from fastbean._core import ABI, Handle, PriorityHeap

__all__ = ["ABI", "Handle", "PriorityHeap"]
