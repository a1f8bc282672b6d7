# PriorityHeap and Handle, the Python classes of fastbean._core; _core.pyx includes this file after the C heap.

@cython.auto_pickle(False)
@cython.final
@cython.freelist(64)
cdef class Handle:
    """Identifies one item in one heap until that item is popped, removed or cleared.

    Only PriorityHeap.push and PriorityHeap.extend make handles. `handle in heap` is True while the item is in the heap.
    """
    # The heap owns one reference to each handle in it. It owns the item too, although the pointer is stored here:
    # nothing can reach the item through the handle, so the heap alone reports it to the garbage collector.
    cdef HeapNode node
    cdef PyObject *item
    cdef void *heap              # only compared, never followed

    def __init__(self):
        raise TypeError("a Handle is made by PriorityHeap.push or extend, not by hand")


cdef inline PyObject *handle_of(HeapNode *node) noexcept nogil:
    # A Handle has no vtable, so its first member comes right after the object header.
    return <PyObject *>(<char *>node - sizeof(PyObject))


cdef inline PyObject *item_of(HeapNode *node) noexcept:
    return (<Handle>handle_of(node)).item


@cython.auto_pickle(False)
@cython.final
@cython.trashcan(True)
cdef class PriorityHeap:
    """A heap of any objects, smallest priority first; equal priorities come out first-in first-out.

    Args:
        entries: an iterable of (item, priority) pairs to start with; O(n). See extend. A second call of __init__, on a
            heap that exists, adds its entries to the others, unlike that of list, which replaces them.

    A priority is an int from 0 to 2**64 - 1. push, pop, pushpop, replace, remove and update are O(log n), peek, len and
    `handle in heap` are O(1), and iteration is O(n log n).

    Threads may share a heap: each call changes it in one step under the GIL. Calls that belong together, such as peek
    and pop, need a lock of your own. Importing this module into a free-threaded Python turns the GIL back on.
    """
    cdef Heap heap
    cdef uint64_t pushed
    cdef object gc_header        # always None: Cython gives a type a GC header only if it has an object attribute
    cdef object __weakref__

    def __init__(self, entries=()):
        add_entries(self, entries, None)

    def __dealloc__(self):
        drop_all(&self.heap)

    def push(self, item, priority):
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
        cdef uint64_t key = priority_key(priority)
        cdef Handle handle = Handle.__new__(Handle)
        if heap_push(&self.heap, &handle.node, key, self.pushed) != 0:
            raise no_memory()
        self.pushed += 1
        fill_handle(handle, item, <void *>self)
        return handle

    def extend(self, entries, /):
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
        cdef list handles = []
        add_entries(self, entries, handles)
        return handles

    def pushpop(self, item, priority):
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
        cdef uint64_t key = priority_key(priority)
        if self.heap.len == 0 or key < heap_top(&self.heap).key:
            return item
        return exchange_top(self, item, key)

    def replace(self, item, priority):
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
        cdef uint64_t key = priority_key(priority)
        if self.heap.len == 0:
            raise IndexError("replace in an empty heap")
        return exchange_top(self, item, key)

    def peek(self):
        """Return the item with the smallest priority and leave it in the heap.

        Raises:
            IndexError: the heap is empty.
        """
        if self.heap.len == 0:
            raise IndexError("peek into an empty heap")
        return <object>item_of(heap_top(&self.heap).node)

    def pop(self):
        """Take out the item with the smallest priority and return it.

        Raises:
            IndexError: the heap is empty.
        """
        cdef HeapNode *node = heap_pop(&self.heap)
        if node == NULL:
            raise IndexError("pop from an empty heap")
        return release(node)

    def remove(self, Handle handle not None, /):
        """Take out the item of a handle, from any position, and return it.

        Args:
            handle: what push or extend returned for the item.

        Raises:
            ValueError: the item is not in this heap, or no longer.
        """
        check_handle(self, handle)
        heap_remove(&self.heap, &handle.node)
        return release(&handle.node)

    def update(self, Handle handle not None, priority):
        """Change the priority of a handle's item; among equal priorities items keep the order of their pushes.

        Args:
            handle: what push or extend returned for the item.
            priority: the new priority, an int from 0 to 2**64 - 1.

        Raises:
            ValueError: the item is not in this heap, or no longer.
            TypeError: the priority is not an int.
            OverflowError: the priority is out of range.
        """
        cdef uint64_t key = priority_key(priority)
        check_handle(self, handle)
        heap_update(&self.heap, &handle.node, key, heap_slot(&self.heap, &handle.node).tie)

    def clear(self):
        """Remove all items, O(n). Items that finalizers push meanwhile stay in the heap."""
        drop_all(&self.heap)

    def __len__(self):
        return self.heap.len

    def __bool__(self):
        return self.heap.len != 0

    def __contains__(self, handle):
        """Whether the item of a handle is in this heap. It takes the handle, not the item."""
        if not isinstance(handle, Handle):
            raise TypeError(f"`in` takes the Handle that push returned, not a {type(handle).__name__}")
        return (<Handle>handle).node.pos != 0 and (<Handle>handle).heap == <void *>self

    def __iter__(self):
        """Iterate over the items in the order of pops. Makes a copy first: O(n log n) and 32 bytes an item.

        The heap is not changed, and may be changed during the iteration.
        """
        return iter(sorted_items(self))

    def __sizeof__(self):
        """The size of the heap and its array in bytes, without handles and items."""
        return object.__sizeof__(self) + self.heap.cap * sizeof(HeapSlot)

    def __repr__(self):
        return f"<{type(self).__name__} of {self.heap.len} items>"

    @classmethod
    def __class_getitem__(cls, item_type, /):
        """PriorityHeap[str] is for type checkers; it is the same class."""
        return Py_GenericAlias(cls, item_type)


cdef uint64_t priority_key(object priority) except? 0x7FFFFFFFFFFFFFFF:
    try:
        return PyLong_AsUnsignedLongLong(priority)
    except TypeError:
        pass
    except OverflowError:
        fault = "negative" if priority < 0 else "too large"
        raise OverflowError(f"a priority is an int from 0 to 2**64 - 1, and this one is {fault}") from None
    try:
        index = PyNumber_Index(priority)
    except TypeError:
        raise TypeError(f"a priority is an int from 0 to 2**64 - 1, not a {type(priority).__name__}") from None
    return priority_key(index)


cdef int check_handle(PriorityHeap self, Handle handle) except -1:
    if handle.node.pos == 0:
        raise ValueError("the item of this handle is in no heap any more: it was popped, removed or cleared")
    if handle.heap != <void *>self:
        raise ValueError("this handle belongs to another heap: use the heap that returned it")
    return 0


cdef object no_memory():
    return MemoryError("no memory for another item in this heap")


cdef inline void fill_handle(Handle handle, object item, void *heap) noexcept:
    """Take the references that a heap owns: one to the handle of a node that is in it, one to the item."""
    handle.heap = heap
    handle.item = <PyObject *>item
    Py_INCREF(item)
    Py_INCREF(handle)


cdef inline object release(HeapNode *node):
    """Drop the heap's references of a node that was taken out; returns its item."""
    cdef object item = <object>item_of(node)
    Py_DECREF(item)
    Py_DECREF(<object>handle_of(node))
    return item


cdef object exchange_top(PriorityHeap self, object item, uint64_t key):
    """Replace the top of a heap that is not empty; returns the old item."""
    cdef Handle handle = Handle.__new__(Handle)
    cdef HeapNode *old = heap_replace(&self.heap, &handle.node, key, self.pushed)
    self.pushed += 1
    fill_handle(handle, item, <void *>self)
    return release(old)


cdef int add_entries(PriorityHeap self, object entries, list handles) except -1:
    """Add (item, priority) pairs, and their handles to a list unless it is None; an exception changes nothing.

    The iterable runs Python code, which may use this heap too. So the entries are collected in a heap of their own, in
    the order given, and move to this one in one step.
    """
    cdef Heap added = Heap(NULL, 0, 0)
    cdef Handle handle
    cdef uint64_t key
    try:
        for item, priority in entries:
            key = priority_key(priority)
            handle = Handle.__new__(Handle)
            if heap_append(&added, &handle.node, key, added.len) != 0:
                raise no_memory()
            fill_handle(handle, item, NULL)
            if handles is not None:
                handles.append(handle)
        move_entries(self, &added)
    finally:
        drop_all(&added)
    return 0


cdef int move_entries(PriorityHeap self, Heap *added) except -1:
    cdef uint32_t first = self.heap.len
    cdef uint32_t index
    cdef HeapSlot slot
    if heap_reserve(&self.heap, added.len) != 0:
        raise no_memory()
    for index in range(added.len):
        slot = heap_at(added, index)[0]
        slot.node.pos = 0
        (<Handle>handle_of(slot.node)).heap = <void *>self
        heap_append(&self.heap, slot.node, slot.key, self.pushed + slot.tie)
    heap_build(&self.heap, first)
    self.pushed += added.len
    heap_free(added)
    return 0


cdef void drop_all(Heap *heap) noexcept:
    # Finalizers of items may call any method of this heap: before the first one runs the heap is empty and every handle
    # knows that it is in no heap.
    cdef Heap old = heap[0]
    cdef uint32_t index
    heap.slots = NULL
    heap_free(heap)
    for index in range(old.len):
        heap_at(&old, index).node.pos = 0
    for index in range(old.len):
        release(heap_at(&old, index).node)
    heap_free(&old)


cdef int compare_slots(const void *a, const void *b) noexcept nogil:
    return -1 if slot_before(<const HeapSlot *>a, <const HeapSlot *>b) else 1


cdef list sorted_items(PriorityHeap self):
    # Make the list first: that may start the garbage collector, and finalizers may change the heap. After that nothing
    # runs Python code.
    cdef list items = []
    cdef size_t size = self.heap.len * sizeof(HeapSlot)
    cdef HeapSlot *slots
    cdef uint32_t index
    if self.heap.len == 0:
        return items
    slots = <HeapSlot *>malloc(size)
    if slots == NULL:
        raise MemoryError("no memory to sort the items of this heap")
    memcpy(slots, self.heap.slots, size)
    qsort(slots, self.heap.len, sizeof(HeapSlot), compare_slots)
    try:
        for index in range(self.heap.len):
            items.append(<object>item_of(slots[index].node))
    finally:
        free(slots)
    return items


# ---- the garbage collector ----

# Cython visits object attributes only, and C pointers refer to the items. So these two wrap Cython's own functions.
cdef traverseproc plain_traverse = (<PyTypeObject *>PriorityHeap).tp_traverse
cdef inquiry plain_clear = (<PyTypeObject *>PriorityHeap).tp_clear


cdef int traverse_items(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef Heap *heap = &(<PriorityHeap>self).heap
    cdef uint32_t index
    cdef int stop
    for index in range(heap.len):
        stop = visit(item_of(heap_at(heap, index).node), arg)
        if stop:
            return stop
    return plain_traverse(self, visit, arg)


cdef int clear_items(PyObject *self) noexcept:
    drop_all(&(<PriorityHeap>self).heap)
    return plain_clear(self)


(<PyTypeObject *>PriorityHeap).tp_traverse = traverse_items
(<PyTypeObject *>PriorityHeap).tp_clear = clear_items
