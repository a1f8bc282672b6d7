from fastbean.benchmark.clients import Clients

__all__ = ["Wake"]

class Wake(Clients):
    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        workers: int = 1,
        depth: int = 1,
        body_bytes: int = 64,
        limit_s: float = 10.0,
        tube: str | None = None,
    ) -> None: ...
