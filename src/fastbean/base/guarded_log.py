"""The log callable of an embedding program, which may raise anything."""

from __future__ import annotations

from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class GuardedLog:
    """Calls ``function``. If that raises an error, the server continues as if it had returned.

    The first such error is reported to the logger ``fastbean`` of ``logging``, with its traceback; later ones are not.

    In the main thread, KeyboardInterrupt, SystemExit and the like belong to the program: a signal handler raised them
    while the callable happened to run. They are raised at once, or, between ``defer`` and ``raise_deferred``, kept
    until the loop has ended, because the compiled code in between cannot propagate them.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._reported = False
        self._deferring_thread = 0
        self._wake: Callable[[], None] | None = None
        self.deferred: BaseException | None = None

    def __call__(self, *arguments: object, **fields: object) -> None:
        """Call the function with these arguments."""
        try:
            self._function(*arguments, **fields)
        except Exception as error:  # noqa: BLE001 - any error of the callable
            self._report(error)
        except BaseException as error:
            if not _is_main_thread():
                self._report(error)
            elif self._wake is None or get_ident() != self._deferring_thread:
                raise
            else:
                self.deferred = error
                self._wake()

    def defer(self, wake: Callable[[], None]) -> None:
        """Keep exceptions that belong to the program, if raised in this thread, and call ``wake`` for each."""
        self._deferring_thread = get_ident()
        self._wake = wake

    def raise_deferred(self) -> None:
        """End what ``defer`` began, and raise the exception that was kept, if any."""
        self._wake = None
        error, self.deferred = self.deferred, None
        if error is not None:
            raise error

    def _report(self, error: BaseException) -> None:
        if self._reported:
            return
        self._reported = True
        try:
            # Loaded only when needed: it takes longer than the rest of a start.
            import logging

            logging.getLogger("fastbean").error("the log callable has raised an error", exc_info=error)
        except Exception:  # noqa: BLE001, S110 - a report that fails cannot be reported
            pass


def _is_main_thread() -> bool:
    import threading  # loaded only when needed, like logging

    return threading.current_thread() is threading.main_thread()
