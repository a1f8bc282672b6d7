from collections.abc import Callable
from typing import Self, final

from fastbean.engine.state import State
from fastbean.net.poller import Poller
from fastbean.net.selector_poller import SelectorPoller

@final
class Connections:
    verbosity: int
    on_event: Callable[[str, int, str], None] | None
    @property
    def state(self) -> State: ...
    def __new__(cls, state: State, poller: Poller | SelectorPoller | None = None) -> Self: ...
