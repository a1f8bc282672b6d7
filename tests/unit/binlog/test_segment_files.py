"""The files of a log: making, recycling and removing them, whatever fails or is cut short; and who takes a spare up."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

import fastbean
from fastbean.binlog import damage_rules, inspection, segment_files
from fastbean.binlog.zeros import reads_as_zeros
from made_binlogs import SEGMENT_BYTES, io_client, live_log, many_jobs, results_of, saved, write_log

CALLS = ("open", "rename", "write_zeros", "fsync", "unlink", "posix_fallocate")
NEXT = 9  # the number of a spare that is made
SYNCS_OF_NAMES = (3, 9)  # which of the calls of a recycling sync the directory


class KilledError(BaseException):
    """Stands for kill -9: nothing is done after it, not even what tidies up."""


class Calls:
    """Counts the calls of the system that change files, and lets the `at`-th fail, once or with all that follow."""

    def __init__(self, monkeypatch, at=0, error=None, names=CALLS):
        self.made = []
        self._at = at
        self._error = error
        for name in names:
            owner = segment_files if name == "write_zeros" else os
            monkeypatch.setattr(owner, name, self._wrap(name, getattr(owner, name)))

    def _wrap(self, name, real):
        def call(*arguments, **options):
            self.made.append(name)
            if self._error is None and self._at and len(self.made) >= self._at:
                raise KilledError
            if self._error is not None and len(self.made) == self._at:
                raise OSError(self._error, os.strerror(self._error))
            return real(*arguments, **options)

        return call


class Keeper:
    """A segment_worker, and what it told."""

    def __init__(self, directory, monkeypatch):
        monkeypatch.setattr(segment_files, "REMOVE_RETRY_S", 0.01)
        self.logged = []
        self.found = []
        self._told = threading.Condition()
        self.fields = []
        self.segment_worker = segment_files.SegmentWorker(directory, self._wake, self._log)
        self.segment_worker.start()

    def _log(self, level, event, **fields):
        self.logged.append((level, event))
        self.fields.append(fields)

    def _wake(self):
        with self._told:
            self._told.notify()

    def wait_for(self, *kinds):
        """The results up to the first ones of these kinds, in order."""
        with self._told:
            while [result.outcome for result in self.found][-len(kinds) :] != list(kinds):
                self.found += results_of(self.segment_worker)
                if [result.outcome for result in self.found][-len(kinds) :] != list(kinds):
                    assert self._told.wait(60), f"waited in vain for {kinds}, got {self.found}"
        return self.found

    def close(self):
        self.segment_worker.close()
        for result in (*self.found, *results_of(self.segment_worker)):
            if result.fd >= 0:
                os.close(result.fd)


@pytest.fixture
def keeper(directory, monkeypatch):
    directory.mkdir(exist_ok=True)
    made = Keeper(directory, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def shedding(directory):
    """A log whose first segments, 1 and 2, are not needed any more: their jobs stand in later ones, too."""
    write_log(directory, many_jobs(60))
    count = len(segment_files.list_segments(directory))
    for path in write_log(
        directory.with_name("more"), many_jobs(60), first_number=count + 1, first_lsn=end_of(directory)
    ):
        shutil.move(path, directory / path.name)
    assert count >= 2
    return directory


def end_of(directory):
    return inspection.Inspection(directory).end_lsn


def numbers(directory):
    return [number for number, _ in segment_files.list_segments(directory)]


def newest(directory):
    return numbers(directory)[-1]


def jobs_of(found):
    return [found.jobs[id] for id in sorted(found.jobs)]


def assert_sound(directory):
    """The log has all of its jobs, and a server starts on it."""
    found = inspection.Inspection(directory)
    assert found.fault is None
    assert jobs_of(found) == many_jobs(60)
    config = fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(directory), binlog_size=SEGMENT_BYTES)
    with fastbean.Server(config) as server:
        client = io_client(server.port)
        assert b"\r\n" in client(b"stats\r\n", bodies=1)
        client(b"", close=True)
    assert jobs_of(inspection.Inspection(directory)) == many_jobs(60)


def is_spare(path, size=SEGMENT_BYTES):
    data = Path(path).read_bytes()
    return len(data) == size and not any(data)


# --- making a spare


@pytest.mark.parametrize("written", [False, True])
def test_a_spare_is_full_of_zeros_and_allocated(tmp_path, written):
    with segment_files.create(tmp_path, NEXT, 3 << 18, written=written) as spare:
        assert os.fstat(spare.fd).st_blocks * segment_files.BLOCK_BYTES >= 3 << 18
    assert is_spare(segment_files.path_of(tmp_path, NEXT), 3 << 18)


def test_a_spare_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    made = []
    for at in range(1, 20):
        with monkeypatch.context() as patch:
            calls = Calls(patch, at, errno.ENOSPC)
            try:
                segment_files.create(tmp_path, NEXT, SEGMENT_BYTES, written=True).close()
            except OSError:
                assert list(tmp_path.iterdir()) == []
            else:
                made = calls.made
                break
    assert made == ["open", "posix_fallocate", "write_zeros", "fsync", "open", "fsync"]


def test_zeros_are_written_where_they_belong(tmp_path):
    path = tmp_path / "full"
    path.write_bytes(b"x" * 20_000)
    with path.open("r+b") as file:
        segment_files.write_zeros(file.fileno(), 10_001, 99)
        segment_files.write_zeros(file.fileno(), 99, 99)
    assert path.read_bytes() == b"x" * 99 + bytes(10_001 - 99) + b"x" * (20_000 - 10_001)


def test_zeros_that_cannot_be_written_are_an_error(tmp_path):
    path = tmp_path / "full"
    path.write_bytes(b"x" * 20_000)
    with path.open("rb") as file, pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        segment_files.write_zeros(file.fileno(), 20_000)
    assert path.read_bytes() == b"x" * 20_000


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, 100_001])
@pytest.mark.parametrize("kind", ["written", "hole", "allocated"])
def test_nothing_but_zeros(tmp_path, kind, size):
    with (tmp_path / "file").open("w+b") as file:
        if kind == "written":
            segment_files.write_zeros(file.fileno(), size)
        elif kind == "hole":
            os.truncate(file.fileno(), size)
        elif size:
            os.posix_fallocate(file.fileno(), 0, size)
        assert all(reads_as_zeros(file.fileno(), at) for at in (0, 1, size, size + 10_000))


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 50_000, 99_999])
def test_a_byte_among_zeros_is_found_from_it_backwards(tmp_path, at):
    with (tmp_path / "file").open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        os.pwrite(file.fileno(), b"x", at)
        os.fsync(file.fileno())
        found = [reads_as_zeros(file.fileno(), start) for start in (0, at, at + 1, 100_000)]
    assert found == [False, False, True, True]


def test_zeros_that_cannot_be_read_are_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(99))
    with path.open("ab") as file, pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        reads_as_zeros(file.fileno())


def test_a_hole_is_filled_and_one_that_cannot_be_counts_as_no_room(tmp_path, monkeypatch):
    path = tmp_path / "sparse"
    path.write_bytes(b"x")
    os.truncate(path, 1 << 20)
    with path.open("r+b") as file:
        with monkeypatch.context() as patch:
            Calls(patch, 1, errno.ENOSPC)
            assert segment_files.allocated(file.fileno()) == 0
        assert segment_files.allocated(file.fileno()) == 1 << 20
        assert os.fstat(file.fileno()).st_blocks * segment_files.BLOCK_BYTES >= 1 << 20
        with monkeypatch.context() as patch:
            calls = Calls(patch)
            assert segment_files.allocated(file.fileno()) == 1 << 20
        assert calls.made == []
    assert path.read_bytes() == b"x" + bytes((1 << 20) - 1)


# --- recycling


def test_an_old_segment_becomes_a_spare_in_this_order(shedding, monkeypatch):
    size = Path(segment_files.path_of(shedding, 1)).stat().st_size
    number = newest(shedding) + 1
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        segment_files.recycle(shedding, 1, number, size).close()
    # Its old name goes, safely; it is cleared, safely; it gets the new name, safely.
    assert calls.made == ["rename", "open", "fsync", "open", "write_zeros", "fsync", "rename", "open", "fsync"]
    assert is_spare(segment_files.path_of(shedding, number), size)
    assert 1 not in numbers(shedding)
    assert_sound(shedding)


def test_a_recycling_that_is_killed_anywhere_harms_nothing(shedding, monkeypatch):
    size = Path(segment_files.path_of(shedding, 1)).stat().st_size
    number = newest(shedding) + 1
    for at in range(1, 100):
        directory = shedding.with_name(f"log-{at}")
        shutil.copytree(shedding, directory)
        try:
            with monkeypatch.context() as patch:
                Calls(patch, at)
                spare = segment_files.recycle(directory, 1, number, size)
        except KilledError:
            assert_sound(directory)
            assert not list(directory.glob("*.part"))
        else:
            spare.close()
            break
    assert at == 10


@pytest.mark.parametrize(("error", "ending"), [(errno.ENOSPC, ()), (errno.EIO, SYNCS_OF_NAMES)])
def test_a_recycling_that_fails_anywhere_harms_nothing(shedding, monkeypatch, error, ending):
    size = Path(segment_files.path_of(shedding, 1)).stat().st_size
    number = newest(shedding) + 1
    outcomes = []
    for at in range(1, 10):
        directory = shedding.with_name(f"log-{at}")
        shutil.copytree(shedding, directory)
        made = Keeper(directory, monkeypatch)
        with monkeypatch.context() as patch:
            Calls(patch, at, error)
            made.segment_worker.recycle(1, number, size)
            if at in ending:
                (failed,) = made.wait_for("failed")
                assert failed.text == f"cannot sync the directory {directory}: {os.strerror(error)}"
                made.close()
                assert_sound(directory)
                continue
            found = made.wait_for("refused", "removed")
        assert [(result.outcome, result.number or result.old, result.size) for result in found] == [
            ("refused", number, size),
            ("removed", 1, size),
        ]
        made.segment_worker.remove(2, size)
        made.wait_for("removed", "removed")
        made.close()
        assert numbers(directory)[0] == 3
        assert number not in numbers(directory)
        assert_sound(directory)
        outcomes.append(len(made.logged))
    assert outcomes == [1] * (9 - len(ending))


def test_an_old_segment_that_cannot_be_renamed_goes_before_the_next_one(shedding, keeper, monkeypatch):
    size = Path(segment_files.path_of(shedding, 1)).stat().st_size
    with monkeypatch.context() as patch:
        real, broken = os.rename, threading.Event()

        def rename(*arguments, **options):
            broken.set()
            raise OSError(errno.EIO, "broken")

        patch.setattr(os, "rename", rename)
        patch.setattr(os, "unlink", rename)
        keeper.segment_worker.recycle(1, newest(shedding) + 1, size)
        keeper.segment_worker.remove(2, size)
        keeper.wait_for("refused")
        assert broken.is_set()
        assert numbers(shedding)[:2] == [1, 2]
    assert real is os.rename
    found = keeper.wait_for("removed", "removed")
    assert [result.old for result in found if result.outcome == "removed"] == [1, 2]
    assert_sound(shedding)


# --- removing


def test_segments_go_in_order_and_each_only_when_the_one_before_is_gone(shedding, keeper, monkeypatch):
    with monkeypatch.context() as patch:
        names, tried = [], threading.Event()
        real = os.unlink

        def unlink(path, **options):
            names.append(Path(path).name)
            if len(names) > 2:
                tried.set()
            if len(names) <= 3:
                raise OSError(errno.EIO, "broken")
            real(path, **options)

        patch.setattr(os, "unlink", unlink)
        keeper.segment_worker.remove(1, 100)
        keeper.segment_worker.remove(2, 200)
        assert tried.wait(60)
        found = keeper.wait_for("removed", "removed")
    assert names[:4] == ["fastbean-1.log"] * 4
    assert names[4:] == ["fastbean-2.log"]
    assert [(result.old, result.size) for result in found] == [(1, 100), (2, 200)]
    assert all(words[:2] == ("WARNING", "segment-not-removed") for words in keeper.logged)
    assert_sound(shedding)


def test_a_recycling_behind_a_removal_that_fails_becomes_a_removal(shedding, keeper, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        keeper.segment_worker.remove(1, 100)
        keeper.segment_worker.recycle(2, newest(shedding) + 1, 200)
        keeper.wait_for("refused")
        assert numbers(shedding)[:2] == [1, 2]
    found = keeper.wait_for("removed", "removed")
    assert [(result.outcome, result.number or result.old, result.size) for result in found[1:]] == [
        ("removed", 1, 100),
        ("removed", 2, 200),
    ]
    assert_sound(shedding)


def synced_files(monkeypatch, fail_at=0):
    """The names of what is synced from now on; a sync may fail."""
    names = []
    real = os.fsync

    def fsync(fd):
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        if len(names) == fail_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def test_what_stays_is_synced_before_a_segment_goes(shedding, keeper, monkeypatch):
    last = newest(shedding)
    with monkeypatch.context() as patch:
        names = synced_files(patch)
        keeper.segment_worker.remove(1, 100, last)
        keeper.segment_worker.remove(2, 100, last)
        keeper.wait_for("removed", "removed")
    first_removal = names.index(shedding.name)
    assert names[:first_removal] == [f"fastbean-{number}.log" for number in range(2, last + 1)]
    # The last one may have grown; those before it are safe.
    assert names[first_removal + 1 :] == [f"fastbean-{last}.log", shedding.name]


@pytest.mark.parametrize("recycled", [False, True])
def test_a_sync_before_a_removal_that_fails_is_told_and_nothing_goes(shedding, keeper, monkeypatch, recycled):
    last = newest(shedding)
    with monkeypatch.context() as patch:
        synced_files(patch, fail_at=2)
        if recycled:
            keeper.segment_worker.recycle(1, last + 1, SEGMENT_BYTES, last)
        else:
            keeper.segment_worker.remove(1, SEGMENT_BYTES, last)
        found = keeper.wait_for("failed")
    assert found[-1].text == "cannot sync fastbean-3.log: Input/output error"
    assert numbers(shedding) == list(range(1, last + 1))


@pytest.mark.parametrize("task", ["create", "recycle", "remove"])
def test_a_directory_sync_that_fails_is_never_taken_for_done(shedding, keeper, monkeypatch, task):
    """The kernel reports the failure once: a retry would succeed, and prove nothing."""
    last = newest(shedding)
    arguments = {"create": (last + 1, SEGMENT_BYTES), "recycle": (1, last + 1, SEGMENT_BYTES), "remove": (1, 100)}
    with monkeypatch.context() as patch:
        synced_files(patch, fail_at=2 if task == "create" else 1)
        getattr(keeper.segment_worker, task)(*arguments[task])
        (failed,) = keeper.wait_for("failed")
    assert failed.text == f"cannot sync the directory {shedding}: Input/output error"
    assert keeper.logged == []
    assert_sound(shedding)


@pytest.mark.parametrize("error", [errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_directories_is_no_failure(tmp_path, monkeypatch, error):
    Calls(monkeypatch, 2, error)
    assert segment_files.sync_directory(tmp_path) is False
    assert segment_files.sync_directory(tmp_path) is True


# --- spares at the start


def serve(directory, segment_bytes=SEGMENT_BYTES):
    return fastbean.Server(
        fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(directory), binlog_size=segment_bytes, fsync_ms=0)
    )


def run_once(directory, segment_bytes=SEGMENT_BYTES):
    """Starts and stops a server, with a job more than before; returns the files of its segments by number."""
    with serve(directory, segment_bytes) as server:
        client = io_client(server.port)
        assert client(b"put 0 0 60 4\r\nbody\r\n").startswith(b"INSERTED ")
        client(b"", close=True)
    return {number: Path(path).stat().st_ino for number, path in segment_files.list_segments(directory)}


def spares_of(directory):
    return [
        number for number, path in segment_files.list_segments(directory) if is_spare(path, Path(path).stat().st_size)
    ]


def test_spares_stay_at_a_stop_and_are_taken_up_by_the_next_start(directory):
    directory.mkdir()
    first = run_once(directory)
    assert spares_of(directory) == [2, 3]
    assert run_once(directory) == first
    assert len(inspection.Inspection(directory).jobs) == 2


def test_spares_that_are_too_small_are_replaced(directory):
    directory.mkdir()
    run_once(directory)
    run_once(directory, 4 * SEGMENT_BYTES)
    assert {Path(path).stat().st_size for number, path in segment_files.list_segments(directory) if number > 1} == {
        4 * SEGMENT_BYTES
    }
    assert spares_of(directory) == numbers(directory)[1:]


@pytest.mark.parametrize("size", [0, 100, SEGMENT_BYTES - 1])
def test_a_spare_that_was_hardly_begun_is_replaced(directory, size):
    directory.mkdir()
    run_once(directory)
    os.truncate(segment_files.path_of(directory, 2), size)
    run_once(directory)
    assert Path(segment_files.path_of(directory, 2)).stat().st_size == SEGMENT_BYTES
    assert len(inspection.Inspection(directory).jobs) == 2


def test_commands_go_on_in_segments_that_are_smaller_than_those_of_an_earlier_run(directory):
    count = 1400
    write_log(directory, [saved(id, state="buried", burial=id) for id in range(1, count + 1)], segment_bytes=65536)
    with serve(directory) as server:
        client = io_client(server.port)
        for id in range(1, count + 1):
            if id % 3:
                assert client(b"kick-job %d\r\n" % id) == b"KICKED\r\n"
            else:
                assert client(b"delete %d\r\n" % id) == b"DELETED\r\n"
        client(b"", close=True)
    assert len(inspection.Inspection(directory).jobs) == count - count // 3


def test_a_larger_spare_is_taken_up(directory):
    directory.mkdir()
    first = run_once(directory, 4 * SEGMENT_BYTES)
    assert run_once(directory) == first


def test_spares_go_from_the_newest_on(directory, monkeypatch):
    for number in range(1, 5):
        directory.mkdir(exist_ok=True)
        Path(segment_files.path_of(directory, number)).write_bytes(b"")
    spares = [path for _, path in segment_files.list_segments(directory)[1:]]
    with monkeypatch.context() as patch:
        calls = Calls(patch, 5, names=("unlink", "fsync"))
        with pytest.raises(KilledError):
            segment_files.remove_newest(directory, spares)
    assert calls.made == ["unlink", "fsync", "unlink", "fsync", "unlink"]
    assert numbers(directory) == [1, 2]


def test_what_cannot_be_seen_is_not_taken_for_missing(tmp_path):
    assert not segment_files.is_there(tmp_path / "nothing")
    assert not segment_files.is_there(Path(__file__) / "in a file")
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        segment_files.is_there(tmp_path / ("x" * 1000))


# --- the rules of what is torn and what is damaged


@pytest.mark.parametrize(
    ("found", "lost"), [([], 0), ([1], 0), ([7, 8, 9], 0), ([1, 3], 2), ([5, 6, 9, 10], 7), ([1, 3, 5], 2)]
)
def test_a_number_that_is_missing_between_others(found, lost):
    assert damage_rules.gap(found) == lost


@pytest.mark.parametrize(
    ("number", "first_lsn", "needed", "lacks"),
    [(1, 0, 0, False), (2, 9, 0, True), (2, 9, 8, True), (2, 9, 9, False), (2, 9, 10, False), (1, None, 0, False),
     (2, None, 0, True)],
)  # fmt: skip
def test_segments_before_the_first_one_may_go_once_the_log_says_so(number, first_lsn, needed, lacks):
    assert damage_rules.lacks_first(number, first_lsn, needed) is lacks


RUN = bytes(range(16))


def head(number=3, first_lsn=1000, run=RUN):
    return segment_files.Header(number, first_lsn, 5, 5, run).encode()


@pytest.mark.parametrize(
    ("data", "misplaced"),
    [
        (bytes(4096), False),
        (head()[:20] + bytes(4096), False),
        (head()[:20], False),
        (bytes(64) + b"records", False),
        (b"x" + head()[1:] + b"records", True),
        (head() + b"records", False),
        (head(first_lsn=999), True),
        (head(number=4), True),
        (head(run=bytes(range(1, 17))), True),
        (head(run=bytes(16)) + b"records", True),
    ],
)
def test_what_the_head_of_a_segment_in_trouble_proves(data, misplaced):
    assert damage_rules.is_misplaced(memoryview(data), 3, 1000, RUN) is misplaced


def test_a_damaged_version_is_damage_and_no_newer_format():
    data = bytearray(head())
    for bit in range(8, 40):
        damaged = bytearray(data)
        damaged[8 + bit // 8 - 1] ^= 1 << bit % 8
        assert segment_files.parse_header(bytes(damaged)) is None
    data[8] = 2
    data[-4:] = segment_files.checksum(bytes(data[:-4])).to_bytes(4, "little")
    with pytest.raises(fastbean.errors.BinlogError, match="use a newer fastbean"):
        segment_files.parse_header(bytes(data))


def test_the_server_of_a_compacted_log_starts_without_complaints(directory):
    live_log(directory)
    found = inspection.Inspection(directory)
    assert found.segments[0].number > 1
    assert found.needed_lsn >= found.first_lsn > 0


@pytest.mark.parametrize(("slow_ns", "works"), [(0, []), (1, ["make", "make", "recycle", "remove"]), (10**18, [])])
def test_work_that_takes_long_is_warned_of(directory, keeper, slow_ns, works):
    keeper.segment_worker.slow_ns = slow_ns
    keeper.segment_worker.create(1, 4096)
    keeper.segment_worker.create(2, 4096)
    keeper.segment_worker.recycle(1, 3, 4096)
    keeper.segment_worker.remove(2, 4096)
    keeper.wait_for("made", "made", "recycled", "removed")
    keeper.close()
    keeper.found.clear()
    assert keeper.logged == [("WARNING", "slow-segment")] * len(works)
    assert [fields["work"] for fields in keeper.fields] == works
    assert [fields["file"] for fields in keeper.fields] == [f"fastbean-{number}.log" for number in (1, 2, 3, 2)][
        : len(works)
    ]
    assert all(fields["ms"] >= 0 for fields in keeper.fields)
