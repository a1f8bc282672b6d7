"""The binlog: what a server stores with ``-b DIR``.

``Binlog`` puts the parts together: the lock of the directory, the jobs that the files hold (``replay``), the compiled
writer (``writer.BinlogWriter``), the thread that syncs and the one that creates and removes files (``segment_files``).
"""

from __future__ import annotations

import os
import threading

from fastbean.base import limits, threads
from fastbean.binlog import segment_files, takeover
from fastbean.binlog.advice import advice
from fastbean.binlog.compaction import Compaction
from fastbean.binlog.descriptors import OpenFile, Pipe
from fastbean.binlog.file_sink import FileSink
from fastbean.binlog.lock import DirectoryLock
from fastbean.binlog.replay import Replay
from fastbean.binlog.writer import BinlogWriter
from fastbean.errors import BinlogError, ResourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastbean.engine.restore import EngineJobs
    from fastbean.net.poller import Poller
    from fastbean.net.selector_poller import SelectorPoller

LARGE_BINLOG_BYTES = 1 << 25


class Binlog:
    """The binlog of one server in ``directory``; ``open`` does everything, the constructor nothing.

    ``segment_bytes`` is the size of a file, rounded up to a multiple of 4096. ``fsync_ms`` 0 syncs before each reply,
    None never. ``max_bytes`` limits the size of the binlog; 0 does not. ``log`` is called with a level, an event and
    fields.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        jobs: EngineJobs,
        *,
        segment_bytes: int,
        fsync_ms: int | None,
        max_bytes: int = 0,
        log: Callable[..., None],
    ) -> None:
        self._directory = os.fspath(directory) or os.curdir
        self._jobs = jobs
        self._segment_bytes = -(-max(segment_bytes, 1) // limits.SMALLEST_SEGMENT_BYTES) * limits.SMALLEST_SEGMENT_BYTES
        self._fsync_ms = fsync_ms
        self._max_bytes = max_bytes
        self._log = log
        # Writing each segment twice only pays off if replies wait for syncs.
        self._written = fsync_ms == 0
        # What `_release` has to end and close, as far as it exists.
        self._lock: DirectoryLock | None = None
        self._wake_pipe: Pipe | None = None
        self._write_pipe: Pipe | None = None
        self._sync_pipe: Pipe | None = None
        self._done_pipe: Pipe | None = None
        self._journal: BinlogWriter | None = None
        self._segment_worker: segment_files.SegmentWorker | None = None
        self._sink: FileSink | None = None
        self._sink_threads: list[threading.Thread] = []

    @property
    def journal(self) -> BinlogWriter:
        """What the engine writes to, once the binlog has been opened."""
        assert self._journal is not None
        return self._journal

    def open(self, progress: Callable[[str], None]) -> None:
        """Lock the directory, restore its jobs into the engine, and start the threads.

        ``progress`` is called with a text now and then while a long binlog is read. Raises BinlogError if the directory
        cannot be used, or its binlog is damaged where it was synced; ResourceError if no more threads can be started.
        After any error, nothing is left open, locked or running.
        """
        try:
            self._open(progress)
        except OSError as error:
            self._release()
            raise BinlogError(
                f"-b {self._directory}: {error.filename or 'its binlog'}: {error.strerror}; {advice(error)}"
            ) from error
        except BaseException:
            self._release()
            raise

    def _open(self, progress: Callable[[str], None]) -> None:
        # Each is stored in its attribute at once, so that `_release` finds it after an error or Ctrl-C. What comes
        # between the two drops the object, which closes what it holds.
        self._lock = DirectoryLock(self._directory)
        self._wake_pipe = Pipe()
        self._write_pipe = write = Pipe()
        self._sync_pipe = sync = Pipe()
        self._done_pipe = done = Pipe()
        self._sink = sink = FileSink(
            syncs=self._fsync_ms is not None,
            pipes=(write.reading, write.writing, sync.reading, sync.writing, done.reading, done.writing),
        )
        self._journal = journal = BinlogWriter(
            self._jobs,
            sink,
            segment_bytes=self._segment_bytes,
            max_bytes=self._max_bytes,
            sync_every_ns=-1 if self._fsync_ms is None else self._fsync_ms * limits.NS_IN_MS,
            ask_for_segment=self._ask_for_segment,
            ask_to_recycle=self._ask_to_recycle,
            ask_to_remove=self._ask_to_remove,
        )
        journal.compactor = Compaction(journal)
        self._read(journal, progress)
        if not segment_files.sync_directory(self._directory):
            self._log("WARNING", "directory-not-synced", directory=self._directory)
        self._jobs.keep_binlog(journal)
        journal.begin_ids()
        self._begin_threads(sink)
        figures = journal.figures()
        self._log(
            "INFO", "binlog-open", directory=self._directory, jobs=figures["live_jobs"], segments=figures["segments"]
        )

    def _read(self, journal: BinlogWriter, progress: Callable[[str], None]) -> None:
        """Restore the directory's jobs, and have the journal continue in the last segment, or in a first one."""
        takeover.prepare(self._directory, segment_bytes=journal.room.segment_size, log=self._log, progress=progress)
        size = sum(os.stat(path).st_size for _, path in segment_files.list_segments(self._directory))
        if size >= LARGE_BINLOG_BYTES:
            self._jobs.expect_large_binlog(size)
        replay = Replay(self._directory, journal, self._log, progress)
        replay.run()
        if replay.last is None:
            segment_files.remove_newest(self._directory, replay.spares)
            journal.begin_run(os.urandom(segment_files.RUN_BYTES))
            size = journal.room.segment_size
            with segment_files.create(self._directory, 1, size, written=self._written) as first:
                first.hand_over(journal.start, 1, size)
        else:
            number, path = replay.last
            with OpenFile(path, os.O_RDWR) as last:
                last.hand_over(journal.start, number, segment_files.allocated(last.fd))
            self._take_spares(replay.spares)

    def _take_spares(self, spares: list[str]) -> None:
        """Keep the spares of an earlier run, since a full disk may have no room for others; remove unusable ones."""
        for place, path in enumerate(spares):
            if not self._take_spare(path):
                segment_files.remove_newest(self._directory, spares[place:])
                return

    def _take_spare(self, path: str) -> bool:
        number = self.journal.room.next_segment
        if path != segment_files.path_of(self._directory, number):
            return False
        with OpenFile(path, os.O_RDWR) as spare:
            size = segment_files.allocated(spare.fd)
            if size < self.journal.room.segment_size:
                return False
            spare.hand_over(self.journal.room.add_spare, number, size)
        return True

    def _begin_threads(self, sink: FileSink) -> None:
        """Start the threads. It comes last, so that an earlier error has no thread to end."""
        self._segment_worker = segment_files.SegmentWorker(
            self._directory, self._wake, self._log, written=self._written
        )
        self._sink_threads = [
            threading.Thread(target=sink.run_writes, name="fastbean-write", daemon=True),
            threading.Thread(target=sink.run_syncs, name="fastbean-sync", daemon=True),
        ]
        try:
            self._segment_worker.start()
            for thread in self._sink_threads:
                thread.start()
            sink.use_threads()
        except RuntimeError as error:
            # An exception from a signal handler, such as Ctrl-C, in the middle of `Thread.start` makes its own locks
            # raise a RuntimeError in the place of it.
            interruption = error.__context__
            if interruption is not None and not isinstance(interruption, Exception):
                raise interruption from None
            raise ResourceError(f"-b {self._directory}: {error}: raise ulimit -u (TasksMax=)") from error

    def warn_of_slow_disk(
        self,
        slow_ns: int,
        on_slow_sync: Callable[[bool, int, int, int], None],
        on_slow_write: Callable[[int, int], None],
    ) -> None:
        """Report operations that take ``slow_ns`` nanoseconds or longer; 0 reports nothing.

        The functions must not raise. ``on_slow_sync`` is called for a sync that replies may wait for: whether it is
        still running, its milliseconds, files and bytes; ``on_slow_write`` for a write: its milliseconds and bytes.
        Creating a segment, which puts may wait for, and removing one are logged.
        """
        assert self._segment_worker is not None
        self.journal.slow_sync_ns = slow_ns
        self.journal.on_slow_sync = on_slow_sync
        self.journal.on_slow_write = on_slow_write
        self._segment_worker.slow_ns = slow_ns

    def attach(self, poller: Poller | SelectorPoller) -> None:
        """Have the loop watch for finished syncs and finished segments."""
        import selectors

        assert self._done_pipe is not None
        assert self._wake_pipe is not None
        poller.add(self._done_pipe.reading, selectors.EVENT_READ, lambda _mask: self.journal.sink_done())
        # The hub calls no Python function for it: replies wait for what it reports.
        self.journal.done_fd = self._done_pipe.reading
        poller.add(self._wake_pipe.reading, selectors.EVENT_READ, self._take_results)

    def close(self) -> None:
        """Write and sync the rest, end the threads, release the directory. Does nothing if the binlog is not open."""
        if self._lock is None:
            return
        try:
            self._end_sink_threads()
            self.journal.finish(self._jobs.next_job_id)
        finally:
            self._release()

    def _release(self) -> None:
        """End the threads, close the descriptors and release the directory, as far as they exist.

        In this order: a thread must not find its descriptors closed, or their numbers in use for other files; and the
        lock is held as long as anything can change a file.
        """
        self._end_sink_threads()
        if self._segment_worker is not None:
            self._segment_worker.close()
            while (result := self._segment_worker.first_result()) is not None:
                self._segment_worker.drop_first_result()
                if result.fd >= 0:
                    os.close(result.fd)
        if self._journal is not None:
            self._journal.close_files()
        for pipe in (self._wake_pipe, self._write_pipe, self._sync_pipe, self._done_pipe):
            if pipe is not None:
                pipe.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _end_sink_threads(self) -> None:
        if self._sink is not None and self._sink_threads:
            self._sink.stop_rounds()
            for thread in self._sink_threads:
                threads.join(thread)
            self._sink_threads = []

    def _ask_for_segment(self, size: int) -> None:
        assert self._segment_worker is not None
        self._segment_worker.create(self.journal.room.next_segment, size)

    def _ask_to_recycle(self, number: int, size: int) -> None:
        assert self._segment_worker is not None
        room = self.journal.room
        self._segment_worker.recycle(number, room.next_segment, size, room.sync_before_removal)

    def _ask_to_remove(self, number: int, size: int) -> None:
        assert self._segment_worker is not None
        self._segment_worker.remove(number, size, self.journal.room.sync_before_removal)

    def _wake(self) -> None:
        assert self._wake_pipe is not None
        os.write(self._wake_pipe.writing, b"\0")

    def _take_results(self, _mask: int) -> None:
        assert self._segment_worker is not None
        assert self._wake_pipe is not None
        # There is a byte in the pipe for each result. Without memory for one, both stay where they are.
        result = self._segment_worker.first_result()
        if result is not None:
            self._take(result)
            self._segment_worker.drop_first_result()
        os.read(self._wake_pipe.reading, 1)

    def _take(self, result: segment_files.Work) -> None:
        if result.fd >= 0:
            self.journal.room.add_spare(result.number, result.fd, result.size, recycled=result.outcome == "recycled")
        elif result.outcome == "refused":
            self.journal.room.refuse_spare()
        elif result.outcome == "removed":
            self.journal.room.removed(result.size)
        else:
            self.journal.fail_with(result.text)
