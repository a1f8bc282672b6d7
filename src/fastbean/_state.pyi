from typing import Self

class State:
    def __new__(cls, *args: object, hash_key: bytes = ..., **kwargs: object) -> Self: ...
