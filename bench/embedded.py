"""`python -m bench.embedded PORT thread|process`: a program with a server inside, which computes meanwhile.

thread: in its main thread; process: in another process, so that the server has the interpreter for itself. It ends when
its standard input does.
"""

from __future__ import annotations

import subprocess
import sys
import threading

import fastbean

from .visits import COMPUTE


def main(port, where):
    """Serves and computes until the end of the input."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with fastbean.Server(fastbean.Config(listen=["127.0.0.1"], port=int(port))):
        if where == "process":
            with subprocess.Popen([sys.executable, "-c", COMPUTE]) as other:
                ended.wait()
                other.kill()
        while not ended.is_set():
            sum(range(1000))


if __name__ == "__main__":
    main(*sys.argv[1:])
