"""Slots of chunks: any sizes, given back in any order; what goes back to the system, and what a want of memory changes.

`Slots` is the slab by itself, in every build. The jobs of a debug build come from the C library one by one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allocations import Allocations
from builds import fewer_if_slow
from fastbean.base.slab import Slots
from memory_client import MemoryClient

CHUNK_BYTES = 65536
SIZES = range(64, 1025, 8)


def fill(slots: Slots, size: int, chunks: int = 1) -> list[int]:
    """Takes all slots of `chunks` new chunks; returns them in that order."""
    before, _ = slots.chunks()
    taken = [slots.take(size)]
    while slots.chunks()[0] <= before + chunks:
        taken.append(slots.take(size))
    slots.give(taken.pop())
    return taken


def give_all(slots: Slots, taken: list[int]) -> None:
    for address in taken:
        slots.give(address)


def chunks_of(taken: list[int]) -> list[list[int]]:
    by_chunk: dict[int, list[int]] = {}
    for address in taken:
        by_chunk.setdefault(address // CHUNK_BYTES, []).append(address)
    return list(by_chunk.values())


@contextmanager
def resident() -> Iterator[Callable[[], int]]:
    """A function that tells by how many bytes the memory of this process has grown."""

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = pages()
    yield lambda: (pages() - before) * mmap.PAGESIZE


class Model:
    """Slots that are written to their last byte, and what stands in each."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.slots = Slots()
        self.written: dict[int, bytes] = {}
        self.addresses: list[int] = []

    def take(self, size: int) -> None:
        address = self.slots.take(size)
        assert address % 8 == 0
        assert address not in self.written
        text = self.random.randbytes(16) * (size // 16 + 1)
        ctypes.memmove(address, text[:size], size)
        self.written[address] = text[:size]
        self.addresses.append(address)

    def give(self, place: int) -> None:
        self.addresses[place], self.addresses[-1] = self.addresses[-1], self.addresses[place]
        self.look_at(address := self.addresses.pop())
        del self.written[address]
        self.slots.give(address)

    def look_at(self, address: int) -> None:
        text = self.written[address]
        assert ctypes.string_at(address, len(text)) == text

    def look_at_all(self) -> None:
        for address in self.addresses:
            self.look_at(address)


@pytest.mark.parametrize("size", SIZES)
def test_slots_of_a_chunk_lie_side_by_side_and_each_is_found_again(size):
    slots = Slots()
    taken = fill(slots, size)
    first = min(taken)
    assert sorted(taken) == [first + number * size for number in range(len(taken))]
    assert first // CHUNK_BYTES == (max(taken) + size - 1) // CHUNK_BYTES
    assert CHUNK_BYTES - len(taken) * size < size + 256, "there is room for one more"
    other = slots.take(size)  # of a second chunk, so that the first is full again after each round
    for address in taken:
        slots.give(address)
        assert slots.take(size) == address
    give_all(slots, [other, *taken])


def test_sizes_are_rounded_up_to_eight_bytes():
    slots = Slots()
    taken = [slots.take(size) for size in (65, 72, 66, 71)]
    assert taken == [taken[0] + number * 72 for number in range(4)]
    assert slots.chunks() == (1, 0)
    give_all(slots, taken)


@pytest.mark.parametrize("size", [0, 63, 1025, 2**32 - 1])
def test_there_are_no_slots_of_other_sizes(size):
    with pytest.raises(ValueError, match="a slot has 64 to 1024 bytes, not "):
        Slots().take(size)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_given_twice_or_overwritten(seed):
    model = Model(seed)
    sizes = [64, 136, 1024, *model.random.sample(range(64, 1025), seed * 4)]
    for phase in range(8):
        grows = phase % 2 == 0
        for _ in range(fewer_if_slow(4000, 1000)):
            if model.random.random() < (0.8 if grows else 0.2) or not model.addresses:
                model.take(model.random.choice(sizes))
            elif phase == 3:
                model.give(len(model.addresses) - 1)
            else:
                model.give(model.random.randrange(len(model.addresses)))
        model.slots.release_to_os()
        model.look_at_all()
    while model.addresses:
        model.give(model.random.randrange(len(model.addresses)))
    model.slots.release_to_os()
    assert model.slots.chunks() == (0, 0)


# ---- chunks ----


def test_a_queue_that_is_empty_again_and_again_keeps_its_chunk():
    slots = Slots()
    first = slots.take(100)
    slots.give(first)
    assert slots.chunks() == (1, 0)
    for _ in range(3):
        assert slots.take(100) == first
        slots.give(first)
    assert slots.chunks() == (1, 0)
    slots.release_to_os()
    assert slots.chunks() == (0, 0)


def test_an_empty_chunk_serves_another_size():
    slots = Slots()
    give_all(slots, fill(slots, 1000, chunks=3))
    assert slots.chunks() == (4, 3), "one stays with its size"
    taken = [slots.take(size) for size in (72, 80, 1000)]
    assert slots.chunks() == (4, 1)
    give_all(slots, taken)


def test_empty_chunks_are_kept_until_memory_goes_back():
    slots = Slots()
    taken = fill(slots, 1024, chunks=40)
    assert slots.chunks() == (41, 0)
    give_all(slots, taken)
    assert slots.chunks() == (41, 40)
    again = [slots.take(1024) for _ in taken]
    assert {address // CHUNK_BYTES for address in taken} <= {address // CHUNK_BYTES for address in again}
    give_all(slots, again)
    slots.release_to_os()
    assert slots.chunks() == (0, 0)


def test_an_empty_chunk_does_not_hide_behind_one_with_room():
    slots = Slots()
    full = fill(slots, 512)  # and begins a second chunk, which is empty then
    assert slots.chunks() == (2, 0)
    slots.give(full[0])
    assert slots.chunks() == (2, 1)
    assert slots.take(512) == full[0]
    give_all(slots, full)


def test_what_was_given_back_last_is_taken_before_a_new_chunk():
    slots = Slots()
    chunks = chunks_of(fill(slots, 1024, chunks=4))
    holes = [chunk[number] for number, chunk in enumerate(chunks)]
    count = slots.chunks()[0]
    give_all(slots, holes)
    assert [slots.take(1024) for _ in holes] == holes[::-1]
    assert slots.chunks()[0] == count
    give_all(slots, [address for chunk in chunks for address in chunk])


# ---- the system's memory ----


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells it so")
def test_a_chunk_costs_the_pages_that_are_used():
    slots = Slots()
    with resident() as growth:
        taken = [slots.take(size) for size in SIZES]
        assert slots.chunks() == (len(SIZES), 0)
        assert growth() < len(SIZES) * CHUNK_BYTES // 3
    give_all(slots, taken)


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere pages stay with their chunk")
def test_pages_without_a_slot_in_use_go_back():
    model = Model(1)
    for _ in range(63 * 320):
        model.take(1024)
    assert model.slots.chunks() == (320, 0)
    kept = {chunk[number % 63] for number, chunk in enumerate(chunks_of(model.addresses))}
    with resident() as growth:
        for place in range(len(model.addresses) - 1, -1, -1):
            if model.addresses[place] not in kept:
                model.give(place)
        assert set(model.addresses) == kept
        model.slots.release_to_os()
        assert growth() < -320 * CHUNK_BYTES // 2
    model.look_at_all()
    for _ in range(62 * 320):
        model.take(1024)
    assert model.slots.chunks() == (320, 0)
    model.look_at_all()
    give_all(model.slots, model.addresses)


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere pages stay with their chunk")
def test_jobs_of_another_size_do_not_come_on_top_of_what_is_free():
    slots = Slots()
    with resident() as growth:
        taken = fill(slots, 1024, chunks=320)
        for address in taken:
            ctypes.memset(address, 1, 1024)
        chunks = chunks_of(taken)
        give_all(slots, [address for chunk in chunks for address in chunk[1:]])
        before = growth()
        others = []
        for _ in range(320 * 127):
            others.append(slots.take(512))
            ctypes.memset(others[-1], 2, 512)
            slots.each_iteration()
        assert slots.chunks()[0] > 600
        assert growth() - before < 320 * CHUNK_BYTES // 2
    assert all(ctypes.string_at(chunk[0], 1024) == b"\x01" * 1024 for chunk in chunks)
    give_all(slots, [*others, *(chunk[0] for chunk in chunks)])


def fill_in_turn(*of: tuple[Slots, int], chunks: int) -> list[list[int]]:
    """Chunks of several slabs and sizes that lie alternately, with every slot written to."""
    taken: list[list[int]] = [[] for _ in of]
    for _ in range(chunks):
        for addresses, (slots, size) in zip(taken, of, strict=True):
            for address in fill(slots, size):
                ctypes.memset(address, 1, size)
                addresses.append(address)
    return taken


@pytest.mark.skipif(platform.system() != "Linux", reason="resident memory is told by /proc")
def test_a_chunk_between_two_that_live_is_used_again():
    slots = Slots()
    with resident() as growth:
        slow, quick = fill_in_turn((slots, 1024), (slots, 512), chunks=200)
        full = growth()
        for _ in range(3):
            give_all(slots, quick)
            quick = [slots.take(512) for _ in quick]
            for address in quick:
                ctypes.memset(address, 1, 512)
        assert growth() < full + 100 * CHUNK_BYTES
    give_all(slots, slow + quick)


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere pages stay with their chunk")
def test_a_slab_that_ends_leaves_no_pages_between_the_chunks_of_another():
    lives, ends = Slots(), Slots()
    with resident() as growth:
        live, ended = fill_in_turn((lives, 1024), (ends, 1024), chunks=200)
        full = growth()
        give_all(ends, ended)
        del ends
        assert growth() < full - 150 * CHUNK_BYTES
    give_all(lives, live)


# ---- without memory ----


def test_without_memory_nothing_changes(allocations: Allocations):
    slots = Slots()
    taken = fill(slots, 200)
    before = slots.take(200)
    with allocations.failing():
        with pytest.raises(MemoryError, match="no memory for another chunk"):
            slots.take(304)
        after = slots.take(200)
    assert after == before + 200
    assert slots.chunks() == (2, 0)
    slots.give(slots.take(304))
    assert slots.chunks() == (3, 0)
    give_all(slots, [before, after, *taken])


# ---- jobs ----


def test_jobs_of_every_size_keep_their_bodies(client: MemoryClient):
    bodies = {client.put(body): body for body in (random.Random(size).randbytes(size) for size in range(1100))}
    order = list(bodies)
    random.Random(0).shuffle(order)
    for id in order[::2]:
        assert client(b"delete %d\r\n" % id) == b"DELETED\r\n"
    for id in order[1::2]:
        body = bodies[id]
        assert client(b"peek %d\r\n" % id) == b"FOUND %d %d\r\n%b\r\n" % (id, len(body), body)


# In a process of its own, whose heap is the server's as in the daemon: in another one glibc is asked for nothing.
LARGE_AND_SMALL = """
import sys
from fastbean.engine import memory
from memory_client import MemoryServer
from test_slab import resident

memory.keep_freed()
client = MemoryServer().client()
small = b"put 0 0 9 64\\r\\n%s\\r\\n" % (b"x" * 64)
with resident() as growth:
    jobs = [client.put(b"x" * 4000) for _ in range(8000)]
    for place, job in enumerate(jobs):
        if place % 10:
            client(b"delete %d\\r\\n" % job)
    for _ in range(400):
        client(small * 400)
    with_gaps = growth()
    for _ in range(3):
        client.server.advance(1)
    print(with_gaps - growth())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to release what lies in between")
def test_small_jobs_do_not_stay_on_top_of_the_gaps_that_large_ones_leave():
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, "-c", LARGE_AND_SMALL],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ended.stdout) > 8000 * 4000 // 2
