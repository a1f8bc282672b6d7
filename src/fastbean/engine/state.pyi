from typing import Self

from fastbean.engine.journal import Store

class State(Store):
    @property
    def effort(self) -> int: ...
    def __new__(cls, *args: object, hash_key: bytes = ..., **kwargs: object) -> Self: ...
