from typing import Self, final

from fastbean.binlog.segment_files import Header
from fastbean.binlog.writer import BinlogWriter

@final
class Loader:
    def __new__(cls, journal: BinlogWriter) -> Self: ...
    def load(self, header: Header, fd: int, size: int) -> tuple[str, int]: ...
    def apply(self, records: bytes, first_lsn: int, sent_ns: int, now_ns: int) -> str: ...
