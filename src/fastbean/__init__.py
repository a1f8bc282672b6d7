"""fastbean: a fast drop-in replacement for the beanstalkd work queue server.

``python -m fastbean`` runs the server; :class:`fastbean.Server` embeds it. Importing this package starts nothing and
imports nothing else: ``Server`` and ``Config`` are loaded on first use, so that a program that only wants the heap of
``fastbean._core`` does not pay for them.
"""

TYPE_CHECKING = False  # as typing's, but `typing` itself is slow to import
if TYPE_CHECKING:
    from fastbean.config import Config
    from fastbean.server import Server

__version__ = "0.1.0"
__all__ = ["Config", "Server", "__version__"]


def __getattr__(name: str) -> object:
    """Loads ``Config`` or ``Server``; raises AttributeError for any other name."""
    if name == "Config":
        from fastbean.config import Config

        return Config
    if name == "Server":
        from fastbean.server import Server

        return Server
    raise AttributeError(f"module 'fastbean' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
