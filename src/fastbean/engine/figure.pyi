from typing import Self

class Text:
    def __new__(cls, text: str) -> Self: ...
