"""Ending threads whose start may have failed, or been interrupted."""

import threading
import time

START_CHECK_S = 0.001
START_CHECKS = 1000


def join(thread: threading.Thread) -> None:
    """Wait until a thread that was asked to end has ended; return at once if it was never started.

    After an exception from ``Thread.start``, such as Ctrl-C, it is unknown whether the thread runs. If it is about to,
    it is in the list of threads, but its own `join` still refuses to wait. Raises RuntimeError for the calling thread.

    One gap stays, which is in `threading` itself: an exception from a signal handler may leave a lock of `Thread.start`
    locked for ever. Its thread then waits for that lock, before its first step, and stays in the list: we stop waiting.
    """
    for _ in range(START_CHECKS):
        try:
            thread.join()
        except RuntimeError:
            if thread is threading.current_thread():
                raise
            if thread not in threading.enumerate():
                return
            time.sleep(START_CHECK_S)
        else:
            return
