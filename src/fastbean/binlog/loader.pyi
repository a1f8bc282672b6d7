from typing import Self, final

from fastbean.binlog.writer import BinlogWriter

@final
class Loader:
    def __new__(cls, journal: BinlogWriter) -> Self: ...
    def load(self, number: int, fd: int, size: int, first_lsn: int, id_limit: int, floor: int) -> tuple[str, int]: ...
