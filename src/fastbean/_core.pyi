"""A priority heap in C that knows the position of each of its entries.

It has two interfaces. Compiled modules use the structs and nogil functions of _core.pxd. Python code uses PriorityHeap,
also available as fastbean.heap: its push returns a Handle by which an item can be removed or moved later.

Guarantees. The smallest (key, tie) is at the top; both are unsigned 64-bit numbers. A node is embedded in its owner's
struct; the heap writes the node's position and nothing else, and never copies or frees it. Only heap_reserve, heap_push
and heap_append can fail, and then nothing has changed. No heap function needs the GIL and none locks: only one thread
at a time may use a heap. The C functions are checked for wrong use only in a build with FASTBEAN_DEBUG defined, which
aborts.

Costs. push, pop, pushpop, replace, remove and update are O(log n); build is O(n); top, slot and length are O(1). An
entry takes 24 bytes of the array. The array doubles when it is full and halves when at most a quarter of it is used;
both are one realloc. Each node has four children, and a hole sinks to a leaf before the last entry rises from there.
Measured with 200,000 and 1,000,000 random entries this takes 0.73 and 0.78 of the time of a binary heap, and 0.89 and
0.80 of its own time without the prefetch.

Invariants. heap_at(i).node.pos == i + 1 for every i below len: position 0 is free to mean "in no heap", and no slot
is wasted. No slot comes before its parent, except between heap_append and heap_build; the parent of index i is
(i - 1) // 4.
"""

from collections.abc import Iterable, Iterator
from types import GenericAlias
from typing import Final, Generic, NoReturn, SupportsIndex, TypeVar, final

_Item = TypeVar("_Item")

__all__ = ["ABI", "Handle", "PriorityHeap"]

ABI: Final[int]

@final
class Handle:
    """Identifies one item in one heap until that item is popped, removed or cleared.

    Only PriorityHeap.push and PriorityHeap.extend make handles. `handle in heap` is True while the item is in the heap.
    """

    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...

@final
class PriorityHeap(Generic[_Item]):
    """A heap of any objects, smallest priority first; equal priorities come out first-in first-out.

    Args:
        entries: an iterable of (item, priority) pairs to start with; O(n). See extend. A second call of __init__, on a
            heap that exists, adds its entries to the others, unlike that of list, which replaces them.

    A priority is an int from 0 to 2**64 - 1. push, pop, pushpop, replace, remove and update are O(log n), peek, len and
    `handle in heap` are O(1), and iteration is O(n log n).

    Threads may share a heap: each call changes it in one step under the GIL. Calls that belong together, such as peek
    and pop, need a lock of your own. Importing this module into a free-threaded Python turns the GIL back on.
    """

    def __init__(self, entries: Iterable[tuple[_Item, SupportsIndex]] = ()) -> None: ...
    def push(self, item: _Item, priority: SupportsIndex) -> Handle:
        """Add an item.

        Args:
            item: any object; items are never compared.
            priority: an int from 0 to 2**64 - 1; the smallest comes out first.

        Returns:
            A Handle for remove and update. You need not keep it.

        Raises:
            TypeError: the priority is not an int.
            OverflowError: the priority is out of range.
            MemoryError: there is no memory for another item; nothing has changed.
        """

    def extend(self, entries: Iterable[tuple[_Item, SupportsIndex]], /) -> list[Handle]:
        """Add many items at once: k entries cost O(k + log(n)**2), where k calls of push cost O(k log n).

        Args:
            entries: an iterable of (item, priority) pairs, as push takes them; `mapping.items()` is one.

        Returns:
            A list of Handles, in the order of the entries. You need not keep it.

        Raises:
            TypeError: an entry is not a pair, or its priority is not an int.
            ValueError: an entry has more or fewer than two members.
            OverflowError: a priority is out of range.
            MemoryError: there is no memory for the items.

        Items are added when the iterable ends. If anything raises before that, nothing has changed.
        """

    def pushpop(self, item: _Item, priority: SupportsIndex) -> _Item:
        """Add an item, then take out the item with the smallest priority and return it.

        This is faster than push and pop, but returns no Handle. It may return the item itself: at once if its priority
        is smaller than all others. Among equal priorities the older item comes out.

        Args:
            item: any object.
            priority: an int from 0 to 2**64 - 1.

        Raises:
            TypeError: the priority is not an int.
            OverflowError: the priority is out of range.
            MemoryError: there is no memory for the new item; nothing has changed.
        """

    def replace(self, item: _Item, priority: SupportsIndex) -> _Item:
        """Take out the item with the smallest priority and return it, then add another item.

        This is faster than pop and push, but returns no Handle.

        Args:
            item: any object.
            priority: an int from 0 to 2**64 - 1.

        Raises:
            IndexError: the heap is empty; nothing has changed.
            TypeError: the priority is not an int.
            OverflowError: the priority is out of range.
            MemoryError: there is no memory for the new item; nothing has changed.
        """

    def peek(self) -> _Item:
        """Return the item with the smallest priority and leave it in the heap.

        Raises:
            IndexError: the heap is empty.
        """

    def pop(self) -> _Item:
        """Take out the item with the smallest priority and return it.

        Raises:
            IndexError: the heap is empty.
        """

    def remove(self, handle: Handle, /) -> _Item:
        """Take out the item of a handle, from any position, and return it.

        Args:
            handle: what push or extend returned for the item.

        Raises:
            ValueError: the item is not in this heap, or no longer.
        """

    def update(self, handle: Handle, priority: SupportsIndex) -> None:
        """Change the priority of a handle's item; among equal priorities items keep the order of their pushes.

        Args:
            handle: what push or extend returned for the item.
            priority: the new priority, an int from 0 to 2**64 - 1.

        Raises:
            ValueError: the item is not in this heap, or no longer.
            TypeError: the priority is not an int.
            OverflowError: the priority is out of range.
        """

    def clear(self) -> None:
        """Remove all items, O(n). Items that finalizers push meanwhile stay in the heap."""

    def __contains__(self, handle: Handle, /) -> bool:
        """Whether the item of a handle is in this heap. It takes the handle, not the item."""

    def __iter__(self) -> Iterator[_Item]:
        """Iterate over the items in the order of pops. Makes a copy first: O(n log n) and 32 bytes an item.

        The heap is not changed, and may be changed during the iteration.
        """

    def __sizeof__(self) -> int:
        """The size of the heap and its array in bytes, without handles and items."""

    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __class_getitem__(cls, item_type: object, /) -> GenericAlias:
        """PriorityHeap[str] is for type checkers; it is the same class."""
