"""What a disk may hold after a power cut, from the trace of a real run.

`Disk` follows a trace event by event. At any point it creates images of the folder as it may be if the power fails
there. What was synced is certain. Of what was written later, anything may be missing: the bytes of a file after some
point, or some of its sectors; names created, changed or removed since the last sync of their folder. What was written
while a sync ran does not count as synced.

`Story` derives from the same trace which commands had a reply at that point.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .expected_state import ExpectedState, Seen
from .faults import Event, Kind
from .writers import WINDOW, Note

SECTOR_BYTES = 512
PAGE_BYTES = 4096

Image = dict[str, bytes]  # contents by the path inside the folder


@dataclass(eq=False)
class _Change:
    """A change of a file's contents: data at an offset, or a new size (at least, or exactly)."""

    place: int
    offset: int
    data: bytes = b""
    size: int = -1
    exact: bool = False

    def apply(self, content: bytearray) -> None:
        if self.size >= 0:
            if self.exact:
                del content[self.size :]
            content.extend(bytes(max(0, self.size - len(content))))
            return
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, count: int) -> _Change:
        """The change if only its first bytes arrived."""
        return _Change(self.place, self.offset, self.data[:count], self.size, self.exact)

    def pieces(self, unit: int) -> Iterator[_Change]:
        """The change split into sectors or pages."""
        if self.size >= 0:
            yield self
            return
        at = 0
        while at < len(self.data):
            end = at + unit - (self.offset + at) % unit
            yield _Change(self.place, self.offset + at, self.data[at:end])
            at = end


@dataclass(eq=False)
class _File:
    """Contents that are certain, and the changes since then that may be lost."""

    durable: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)


@dataclass(eq=False)
class _Naming:
    """A change of a folder: a new name of a file, a removed one, or a file moved from one name to another."""

    place: int
    name: str
    file: _File | None = None
    old_name: str | None = None

    @property
    def folders(self) -> set[str]:
        """The folders whose sync makes it certain; for a move between folders, either."""
        return {str(Path(name).parent).removeprefix(".") for name in (self.name, self.old_name) if name is not None}

    def apply(self, names: dict[str, _File]) -> None:
        if self.old_name is not None:
            moved = names.pop(self.old_name, None)
            if moved is not None:
                names[self.name] = moved
        elif self.file is not None:
            names[self.name] = self.file
        else:
            names.pop(self.name, None)


class Disk:
    """The folder ``root`` during a trace; ``image`` is what it held before, all of it synced.

    A new folder in it is certain at once; its contents are not.
    """

    def __init__(self, root: Path, image: Image | None = None) -> None:
        self._root = str(root.resolve())
        self._open: dict[int, _File | str] = {}  # a folder by its name
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        for name, content in (image or {}).items():
            self._names[name] = self._durable_names[name] = _File(bytearray(content))
        self._namings: list[_Naming] = []
        self._sync_began: dict[int, int] = {}
        self._place = 0

    def step(self, event: Event) -> None:
        """Applies one event."""
        self._place += 1
        handler = getattr(self, f"_on_{event.kind.name.lower()}", None)
        if handler is not None and event.result >= 0:
            handler(event)

    def unsynced(self) -> int:
        """The number of changes that a power cut could lose now."""
        return len(self._namings) + sum(len(file.changes) for file in self._files())

    # Events

    def _on_create(self, event: Event) -> None:
        self._open[event.fd] = file = _File()
        self._name(_Naming(self._place, self._inside(event.path), file))

    def _on_open(self, event: Event) -> None:
        name = self._inside(event.path)
        if name not in self._names:
            self._open[event.fd] = name
            return
        self._open[event.fd] = file = self._names[name]
        if event.offset & os.O_TRUNC:
            file.changes.append(_Change(self._place, 0, size=0, exact=True))

    def _on_close(self, event: Event) -> None:
        self._open.pop(event.fd, None)

    def _on_write(self, event: Event) -> None:
        self._changed(event, _Change(self._place, event.offset, event.data))

    def _on_truncate(self, event: Event) -> None:
        self._changed(event, _Change(self._place, 0, size=event.offset, exact=True))

    def _on_allocate(self, event: Event) -> None:
        self._changed(event, _Change(self._place, 0, size=event.offset + event.length))

    def _on_sync_begin(self, event: Event) -> None:
        self._sync_began[event.fd] = self._place

    def _on_sync(self, event: Event) -> None:
        file = self._open[event.fd]
        assert isinstance(file, _File)
        began = self._sync_began.pop(event.fd)
        for change in file.changes:
            if change.place < began:
                change.apply(file.durable)
        file.changes = [change for change in file.changes if change.place >= began]

    _on_sync_folder_begin = _on_sync_begin

    def _on_sync_folder(self, event: Event) -> None:
        began, folder = self._sync_began.pop(event.fd), self._open[event.fd]
        certain = [naming for naming in self._namings if naming.place < began and folder in naming.folders]
        for naming in certain:
            naming.apply(self._durable_names)
        self._namings = [naming for naming in self._namings if naming not in certain]

    def _on_rename(self, event: Event) -> None:
        self._name(_Naming(self._place, self._inside(event.path2), None, self._inside(event.path)))

    def _on_unlink(self, event: Event) -> None:
        self._name(_Naming(self._place, self._inside(event.path)))

    def _on_link(self, event: Event) -> None:
        file = self._names[self._inside(event.path)]
        self._name(_Naming(self._place, self._inside(event.path2), file))

    def _changed(self, event: Event, change: _Change) -> None:
        file = self._open[event.fd]
        assert isinstance(file, _File)
        file.changes.append(change)

    def _name(self, naming: _Naming) -> None:
        naming.apply(self._names)
        self._namings.append(naming)

    def _inside(self, path: str) -> str:
        return os.path.relpath(path, self._root).removeprefix(".")

    def _files(self) -> list[_File]:
        found = {id(file): file for file in (*self._names.values(), *self._durable_names.values())}
        return list(found.values())

    # Images

    def synced(self) -> Image:
        """An image with only what is certain."""
        return self._image([], lambda file: [])

    def everything(self) -> Image:
        """An image with everything that was written, as after a kill."""
        return self._image(self._namings, lambda file: file.changes)

    def torn(self, rng: random.Random) -> Image:
        """An image with everything in order, up to a byte in the middle of the newest changes of each file."""

        def cut(file: _File) -> list[_Change]:
            if not file.changes:
                return []
            count = rng.randrange(len(file.changes))
            last = file.changes[count]
            return [*file.changes[:count], last.torn(rng.randrange(len(last.data) + 1))]

        return self._image(self._namings, cut)

    def holes(self, rng: random.Random, unit: int) -> Image:
        """An image in which any written sectors or pages, and any new names, may be missing."""
        share = rng.choice([0.1, 0.5, 0.9])

        def some(file: _File) -> list[_Change]:
            pieces = [piece for change in file.changes for piece in change.pieces(unit)]
            return [piece for piece in pieces if rng.random() < share]

        return self._image([naming for naming in self._namings if rng.random() < share], some)

    def late_names(self, rng: random.Random) -> Image:
        """An image with all contents, but only some of the names."""
        return self._image([naming for naming in self._namings if rng.random() < 0.5], lambda file: file.changes)

    def _image(self, namings: Sequence[_Naming], arrived: Callable[[_File], list[_Change]]) -> Image:
        names = dict(self._durable_names)
        for naming in namings:
            naming.apply(names)
        image = {}
        for name, file in names.items():
            content = bytearray(file.durable)
            for change in arrived(file):
                change.apply(content)
            image[name] = bytes(content)
        return image


def read_image(folder: Path) -> Image:
    """Reads all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_image(image: Image, folder: Path) -> None:
    """Writes a folder so that it holds exactly these files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, content in image.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


class Story:
    """The commands of a traced run, with the places in the trace where each was sent and got its reply.

    A command counts as answered at the send that completes its reply.
    """

    def __init__(self, notes: Sequence[Note], events: Sequence[Event], writers: int) -> None:
        self._writers = writers
        self._notes = sorted(notes, key=lambda note: note.op.number)
        sent: dict[int, int] = {}
        waiting: dict[int, list[Note]] = {}
        for note in (note for note in self._notes if note.ends_at):
            waiting.setdefault(note.port, []).append(note)
        for place, event in enumerate(events):
            if event.kind != Kind.SEND or event.result <= 0:
                continue
            sent[event.offset] = sent.get(event.offset, 0) + event.result
            queue = waiting.get(event.offset, [])
            while queue and queue[0].ends_at <= sent[event.offset]:
                queue.pop(0).op.answered_at = place
        # A kill may come between a send and its record; those replies then count as not answered.
        missing = sum(len(queue) for queue in waiting.values())
        assert missing <= WINDOW, f"the trace lacks {missing} replies"

    @property
    def ids(self) -> set[int]:
        """The ids of all jobs that were ever put."""
        return {note.op.job.id for note in self._notes if note.op.job is not None and note.op.job.id is not None}

    def highest_id_told(self, place: int) -> int:
        """The highest id that a client knew at a place of the trace."""
        told = (note.op.job for note in self._notes if note.op.job is not None and note.op.answered_at < place)
        return max((job.id for job in told if job.id is not None), default=0)

    def expected_at(self, place: int, *, acknowledged_counts: bool = True) -> ExpectedState:
        """The expected state at a place of the trace.

        Without `acknowledged_counts` every command may be lost, but of one writer only together with all later ones.
        """
        expected = ExpectedState(self._writers)
        answered = [note for note in self._notes if acknowledged_counts and note.op.answered_at < place]
        for note in sorted(answered, key=lambda note: note.op.answered_at):
            expected.settle(note.op)
        for note in self._notes:
            if note.op.sent_at <= place and not (acknowledged_counts and note.op.answered_at < place):
                expected.writers[note.writer].pending.append(note.op)
        return expected


def complaints(expected: ExpectedState, seen: Mapping[int, Seen | None], there: int) -> list[str]:
    """What is wrong with the jobs that were found, and with their number."""
    found = sum(each is not None for each in seen.values())
    wrong = expected.complaints(seen, adopt=False)
    return wrong if found == there else [*wrong, f"the server has {there} jobs, of which {found} were ever put"]
