from typing import Self, final

from fastbean.binlog.writer import BinlogWriter
from fastbean.engine.journal import Compactor

@final
class Compaction(Compactor):
    def __new__(cls, writer: BinlogWriter) -> Self: ...
