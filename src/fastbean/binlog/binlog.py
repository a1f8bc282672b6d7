"""The binlog: what a server stores with ``-b DIR``.

``Binlog`` puts the parts together: the lock of the directory, the jobs that the files hold (``replay``), the compiled
writer (``writer.BinlogWriter``), the thread that syncs and the one that makes and removes files (``segment_files``).
"""

import errno
import os
import threading

from fastbean.base import limits
from fastbean.binlog import segment_files, takeover
from fastbean.binlog.lock import DirectoryLock
from fastbean.binlog.replay import Replay
from fastbean.binlog.writer import BinlogWriter
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastbean.engine.commands import Engine
    from fastbean.net.poller import Poller
    from fastbean.net.selector_poller import SelectorPoller

LARGE_BINLOG_BYTES = 1 << 25


class Binlog:
    """The log of one server in ``directory``.

    ``segment_bytes`` is the size of a file, rounded up to 4096. ``fsync_ms`` 0 syncs before each reply, None never.
    ``max_bytes`` bounds the log, 0 does not. ``log`` is called with a level, an event and fields, ``progress`` with a
    text while a long log is read.

    Raises BinlogError if the directory cannot be used, or holds a log that is damaged where it was synced.
    """

    def __init__(
        self,
        directory: "str | os.PathLike[str]",
        engine: "Engine",
        *,
        segment_bytes: int,
        fsync_ms: int | None,
        max_bytes: int = 0,
        log: "Callable[..., None]",
        progress: "Callable[[str], None]",
    ) -> None:
        self._directory = os.fspath(directory) or os.curdir
        self._engine = engine
        self._log = log
        # Only replies that wait for a sync are worth a disk that is written to twice.
        self._written = fsync_ms == 0
        self._lock = DirectoryLock(self._directory)
        self._descriptors: list[int] = []
        try:
            self._wake_pipe = self._pipe()
            self._sync_pipes = (*self._pipe(), *self._pipe())
            self.journal = BinlogWriter(
                engine,
                segment_bytes=-(-max(segment_bytes, 1) // limits.SMALLEST_SEGMENT_BYTES)
                * limits.SMALLEST_SEGMENT_BYTES,
                max_bytes=max_bytes,
                sync_every_ns=-1 if fsync_ms is None else fsync_ms * 1_000_000,
                ask_for_segment=self._ask_for_segment,
                ask_to_recycle=self._ask_to_recycle,
                ask_to_remove=self._ask_to_remove,
                sync_pipes=self._sync_pipes,
            )
            self._open(progress)
        except OSError as error:
            self._close_descriptors()
            raise BinlogError(
                f"-b {directory}: {error.filename or 'its log'}: {error.strerror}; {_advice(error)}"
            ) from error
        except BaseException:
            self._close_descriptors()
            raise

    def _open(self, progress: "Callable[[str], None]") -> None:
        takeover.prepare(self._directory, segment_bytes=self.journal.segment_size, log=self._log, progress=progress)
        size = sum(os.stat(path).st_size for _, path in segment_files.list_segments(self._directory))
        if size >= LARGE_BINLOG_BYTES:
            self._engine.expect_large_binlog(size)
        replay = Replay(self._directory, self.journal, self._log, progress)
        replay.run()
        if replay.last is None:
            segment_files.remove_newest(self._directory, replay.spares)
            size = self.journal.segment_size
            self._start(1, segment_files.create(self._directory, 1, size, written=self._written), size)
        else:
            number, path = replay.last
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._start(number, fd, segment_files.allocated(fd))
            self._take_spares(replay.spares)
            segment_files.sync_directory(self._directory)
        self._engine.keep_binlog(self.journal)
        self._segment_worker = segment_files.SegmentWorker(
            self._directory, self._wake, self._log, written=self._written
        )
        self._sync_thread = threading.Thread(target=self.journal.run_syncs, name="fastbean-sync", daemon=True)
        self._sync_thread.start()
        figures = self.journal.figures()
        self._log(
            "INFO", "binlog-open", directory=self._directory, jobs=figures["live_jobs"], segments=figures["segments"]
        )

    def _start(self, number: int, fd: int, size: int) -> None:
        try:
            self.journal.start(number, fd, size)
        except MemoryError:
            os.close(fd)
            raise

    def _take_spares(self, spares: list[str]) -> None:
        """Keep what an earlier run prepared: on a full disk there may be no other. What is of no use goes."""
        for place, path in enumerate(spares):
            number = self.journal.next_segment
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            size = segment_files.allocated(fd)
            if path != segment_files.path_of(self._directory, number) or size < self.journal.segment_size:
                os.close(fd)
                segment_files.remove_newest(self._directory, spares[place:])
                return
            self.journal.add_spare(number, fd, size)

    def warn_of_slow_syncs(self, slow_ns: int, on_slow_sync: "Callable[[bool, int, int, int], None]") -> None:
        """Tell of what takes ``slow_ns`` nanoseconds or longer, 0 for nothing.

        A sync that replies may wait for is told to ``on_slow_sync``: whether it still goes on, its milliseconds, files
        and bytes. The making of a segment, which puts may wait for, and its removal are told to the log.
        """
        self.journal.slow_sync_ns = slow_ns
        self.journal.on_slow_sync = on_slow_sync
        self._segment_worker.slow_ns = slow_ns

    def attach(self, poller: "Poller | SelectorPoller") -> None:
        """Let the loop hear of syncs that are done and segments that are made."""
        import selectors

        poller.add(self._sync_pipes[2], selectors.EVENT_READ, lambda _mask: self.journal.sync_done())
        poller.add(self._wake_pipe[0], selectors.EVENT_READ, self._take_results)

    def close(self) -> None:
        """Write and sync what is left, end the threads, let the directory go."""
        self.journal.stop_syncs()
        self._sync_thread.join()
        self.journal.finish(self._engine.next_job_id)
        self._segment_worker.close()
        for result in self._segment_worker.results():
            if result.fd >= 0:
                os.close(result.fd)
        self._close_descriptors()

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._descriptors += ends
        return ends

    def _close_descriptors(self) -> None:
        for fd in self._descriptors:
            os.close(fd)
        self._lock.release()

    def _ask_for_segment(self, size: int) -> None:
        self._segment_worker.create(self.journal.next_segment, size)

    def _ask_to_recycle(self, number: int, size: int) -> None:
        self._segment_worker.recycle(number, self.journal.next_segment, size, self.journal.sync_before_removal)

    def _ask_to_remove(self, number: int, size: int) -> None:
        self._segment_worker.remove(number, size, self.journal.sync_before_removal)

    def _wake(self) -> None:
        os.write(self._wake_pipe[1], b"\0")

    def _take_results(self, _mask: int) -> None:
        os.read(self._wake_pipe[0], 4096)
        for result in self._segment_worker.results():
            if result.fd >= 0:
                self.journal.add_spare(result.number, result.fd, result.size, recycled=result.kind == "recycled")
            elif result.kind == "refused":
                self.journal.refuse_spare()
            elif result.kind == "removed":
                self.journal.removed(result.size)
            else:
                self.journal.fail_with(result.text)


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on its disk, or choose another directory"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise ulimit -n (LimitNOFILE=)"
    return "look at the disk, and at the rights of the directory and its files"
