"""How a stream has to be set up in JetStream, and what is unsafe about one that is not."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Settings that decide whether anything can be lost, or written by others.
_REQUIRED = ("subjects", "retention", "storage", "discard", "deny_delete", "allow_direct")
_NONE = -1


def subjects(name: str) -> list[str]:
    """The subjects of the stream ``name``: claims, and all other messages."""
    return [f"fb.{name}.claim", f"fb.{name}.data"]


def stream_config(name: str, replicas: int, max_bytes: int) -> dict[str, object]:
    """The configuration of a new stream, as the server's API takes it.

    A full stream refuses messages (``discard``: new), since the other way would drop the oldest records silently.
    Single messages cannot be deleted, and the server answers reads from its leader only (``allow_direct``), because
    replicas may lag.
    """
    return {
        "name": name,
        "subjects": subjects(name),
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_bytes": max_bytes,
        "max_msgs": _NONE,
        "max_age": 0,
        "deny_delete": True,
        "allow_direct": False,
    }


def differences(config: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[str]:
    """What is other in a stream's configuration than wanted, one line each."""
    for key, value in wanted.items():
        found = config.get(key, False if isinstance(value, bool) else None)
        if found != value:
            yield f"{key} is {found}, and should be {value}"


def faults(name: str, config: Mapping[str, object]) -> Iterator[str]:
    """What makes a stream with this configuration unsafe, one line each."""
    wanted = stream_config(name, 3, 0)
    yield from differences(config, {key: wanted[key] for key in _REQUIRED})
    replicas = config.get("num_replicas")
    if not isinstance(replicas, int) or replicas < 3:
        yield f"it has {replicas} replicas: with fewer than 3, one machine that dies takes the queue with it"
    limits = (("max_bytes", True), ("max_msgs", False), ("max_age", False), ("max_msgs_per_subject", False))
    for key, is_needed in limits:
        value = config.get(key, 0)
        is_set = isinstance(value, int) and value > 0
        if is_needed and not is_set:
            yield f"{key} is not set: puts are refused in time only if the limit is known"
        elif is_set and not is_needed:
            yield f"{key} is {value}: old records would be dropped, or new ones refused, without a reason"
