from fastbean.engine.state import State

class Recovery(State):
    def expect_large_binlog(self, size: int) -> None: ...
