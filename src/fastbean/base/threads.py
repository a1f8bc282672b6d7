"""Ending threads whose start may have failed, or been interrupted."""

import threading
import time

START_CHECK_S = 0.001
START_CHECKS = 1000


def join(thread: threading.Thread) -> None:
    """Wait until a thread has ended, which has been asked to; return at once if it has never been started.

    An exception out of ``Thread.start``, as Ctrl-C makes one, leaves open whether the thread runs: if it is about to,
    `join` refuses it still, and it is in the list of threads. RuntimeError for the thread that calls.
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
