"""The tools of the program: ``fastbean WORD ...`` runs one of them.

Each tool is a module with a ``main`` that takes the arguments after the word and returns the exit status. It is loaded
only when it is run.
"""

from __future__ import annotations

import importlib

from fastbean.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Tool:
    """One tool: the name of its module, and its line in ``--help``."""

    __slots__ = ("help", "module")

    def __init__(self, module: str, help: str) -> None:  # noqa: A002 - the name that argparse uses
        self.module = module
        self.help = help


TOOLS = {
    "binlog": Tool("fastbean.binlog.__main__", "check, dump, back up, repair or export a binlog"),
    "benchmark": Tool("fastbean.benchmark.__main__", "measure a beanstalk server"),
    "cluster": Tool("fastbean.replication.tool", "create or check the stream of a replicated binlog"),
    "health": Tool("fastbean.daemon.health", "ask a server whether it serves, for monitors"),
}


def run(word: str, arguments: Sequence[str]) -> int:
    """Runs the tool ``word`` with ``arguments``; returns its exit status. Raises UsageError for an unknown tool."""
    if word not in TOOLS:
        raise UsageError(f"unknown word: {word}; use one of {', '.join(TOOLS)}, or flags alone to start the server")
    status: int = importlib.import_module(TOOLS[word].module).main(arguments)
    return status
