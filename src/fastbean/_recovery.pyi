from fastbean._state import State

class Recovery(State):
    def expect_large_log(self, size: int) -> None: ...
