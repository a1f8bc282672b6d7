"""The log callable of an embedding program, which may raise what it wants."""

from __future__ import annotations

from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class GuardedLog:
    """Calls ``function``; what that raises does no harm to the server, which goes on as if it had returned.

    The first such error goes to the logger ``fastbean`` of ``logging``, with its traceback; later ones go nowhere.

    In the main thread, KeyboardInterrupt, SystemExit and the like are the program's own: a signal handler has raised
    them, and the callable happened to run. They are raised, or, between ``defer`` and ``raise_deferred``, kept until
    the loop has come to its end: compiled code in between could not pass them on.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._reported = False
        self._deferring_thread = 0
        self._wake: Callable[[], None] | None = None
        self.deferred: BaseException | None = None

    def __call__(self, *arguments: object, **fields: object) -> None:
        """Call the function with these."""
        try:
            self._function(*arguments, **fields)
        except Exception as error:  # noqa: BLE001 - whatever it is
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
        """From now on keep what is not to be dropped and comes in this thread; ``wake`` is called then."""
        self._deferring_thread = get_ident()
        self._wake = wake

    def raise_deferred(self) -> None:
        """Keep nothing any more, and raise what was kept."""
        self._wake = None
        error, self.deferred = self.deferred, None
        if error is not None:
            raise error

    def _report(self, error: BaseException) -> None:
        if self._reported:
            return
        self._reported = True
        try:
            # Loaded only when there is something to say: it takes longer than the whole rest of a start.
            import logging

            logging.getLogger("fastbean").error("the log callable has raised an error", exc_info=error)
        except Exception:  # noqa: BLE001, S110 - a report that fails cannot be reported
            pass


def _is_main_thread() -> bool:
    import threading  # loaded only when it is needed, as logging is

    return threading.current_thread() is threading.main_thread()
