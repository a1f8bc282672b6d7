from typing import Self, final

from fastbean.binlog.segment_files import Header
from fastbean.binlog.writer import BinlogWriter

@final
class Loader:
    def __new__(cls, journal: BinlogWriter) -> Self: ...
    def load(self, header: Header, fd: int, size: int) -> tuple[str, int]: ...
