"""Does an installed fastbean work? Run by the Python that it is installed for; needs nothing else.

``python smoke.py [--cimport]``: starts the server on a Unix socket with a log on disk, puts, reserves and deletes a
job, stops it, and looks at the log; runs the other programs; looks for the manual pages and shell completions. With
``--cimport`` (needs cython, setuptools and a C compiler) it also builds the example project of docs/cimport.md against
the installed package, and runs it. Ends with an exception, and so status 1, at the first thing that is wrong.
"""

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sysconfig.get_path("scripts"))
DATA = Path(sysconfig.get_path("data"))
PATIENCE_S = 60
EXAMPLE = "import foreign; assert foreign.expired([50, 10, 99, 10, 30], 50) == [1, 3, 4, 0]"
SHARED = [
    "man/man1/fastbean.1",
    "man/man1/fastbean-benchmark.1",
    "man/man1/fastbean-binlog.1",
    "man/man1/fastbean-health.1",
    "bash-completion/completions/fastbean",
    "zsh/site-functions/_fastbean",
    "fish/vendor_completions.d/fastbean.fish",
]


def main() -> None:
    """Checks everything, and tells what was checked."""
    with tempfile.TemporaryDirectory(prefix="fastbean-smoke-") as name:
        folder = Path(name)
        version = importlib.metadata.version("fastbean")
        expect(output(folder, SCRIPTS / "fastbean", "--version") == f"fastbean {version}\n", "fastbean --version")
        serve_one_job(folder)
        found = output(folder, SCRIPTS / "fastbean", "binlog", "check", folder / "log")
        expect("the binlog is sound" in found, f"the log after a clean stop: {found}")
        expect("--against" in output(folder, SCRIPTS / "fastbean-benchmark", "--help"), "fastbean-benchmark --help")
        for path in SHARED:
            expect((DATA / "share" / path).is_file(), f"{DATA}/share/{path} is not installed")
        if "--cimport" in sys.argv[1:]:
            build_the_example(folder / "example")
    checked = "server, log, tools, pages" + (", cimport" if "--cimport" in sys.argv[1:] else "")
    sys.stdout.write(f"smoke test passed: fastbean {version}, Python {sys.version.split()[0]}: {checked}\n")


def serve_one_job(folder: Path) -> None:
    """A job's way through a server of its own."""
    path = folder / "socket"
    (folder / "log").mkdir()
    command = [SCRIPTS / "fastbean", "-l", f"unix:{path}", "-b", folder / "log"]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL) as process:
        try:
            with connect(path, process) as sock, sock.makefile("rb") as lines:
                sock.sendall(b"put 0 0 60 5\r\nhello\r\nreserve\r\ndelete 1\r\n")
                for line in (b"INSERTED 1\r\n", b"RESERVED 1 5\r\n", b"hello\r\n", b"DELETED\r\n"):
                    found = lines.readline()
                    expect(found == line, f"expected {line!r}, found {found!r}")
            process.send_signal(signal.SIGTERM)
            expect(process.wait(PATIENCE_S) == 0, f"exit status {process.returncode} after SIGTERM")
        finally:
            process.kill()


def connect(path: Path, process: "subprocess.Popen[bytes]") -> socket.socket:
    """A connection to the socket at ``path``, once somebody listens there."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            expect(process.poll() is None, f"the server ended with status {process.returncode}")
            expect(time.monotonic() < give_up_s, "the server does not listen")
            time.sleep(0.02)
        else:
            return sock


def build_the_example(folder: Path) -> None:
    """Builds and runs the project that docs/cimport.md shows; tests/cimport holds the two equal."""
    shutil.copytree(ROOT / "tests" / "cimport" / "foreign", folder)
    output(folder, sys.executable, "setup.py", "build_ext", "--inplace")
    output(folder, sys.executable, "-c", EXAMPLE)


def output(folder: Path, *command: "str | os.PathLike[str]") -> str:
    """What ``command``, run in ``folder``, prints; it must end with status 0."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    expect(done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(condition: bool, what: str) -> None:
    """Ends with ``what`` if the condition does not hold."""
    if not condition:
        raise SystemExit(f"smoke test failed: {what}")


if __name__ == "__main__":
    main()
