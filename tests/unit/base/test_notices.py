"""The queue of what Python must hear: order, bounds, and what is lost."""

from fastbean.base.notices import Notices
from fastbean.engine.state import State
from fastbean.net.hub import Hub

LIMIT_BYTES = 1 << 20


def hub_that_logs() -> tuple[Hub, list[tuple[str, int, str]], list[int]]:
    """A hub that notes all commands and replies, the events it reported, and the counts of the lost ones."""
    hub = Hub(State())
    events: list[tuple[str, int, str]] = []
    lost: list[int] = []
    hub.shared.verbosity = 2
    hub.shared.on_event = lambda *event: events.append(event)
    hub.on_dropped_notices = lost.append
    return hub, events, lost


def test_a_new_one_is_empty() -> None:
    notices = Notices()
    assert notices.take() == ([], 0)
    assert notices.dropped == 0


def test_notices_come_in_order_and_once() -> None:
    hub, events, lost = hub_that_logs()
    client = hub.connect()
    client.feed(b"use a\r\nuse \xe9\r\n", 0)
    assert events == []
    hub.end_iteration(0)
    hub.end_iteration(0)
    assert events == [
        ("command", -1, "use a"), ("reply", -1, "USING a"), ("command", -1, "use \xe9"), ("reply", -1, "BAD_FORMAT"),
    ]  # fmt: skip
    assert lost == []


def test_what_does_not_fit_is_lost_and_counted_and_the_clients_are_served() -> None:
    hub, events, lost = hub_that_logs()
    clients = [hub.connect() for _ in range(100)]
    for client in clients:
        client.feed((b"use " + b"a" * 199 + b"\r\n") * 100, 0)
        assert client.take_output().count(b"USING") == 100
    hub.end_iteration(0)
    assert sum(lost) + len(events) == 2 * 100 * 100
    assert lost[0] > 0
    assert sum(len(text) for _, _, text in events) < LIMIT_BYTES
    events.clear()
    lost.clear()
    clients[0].feed(b"use b\r\n", 0)
    hub.end_iteration(0)
    assert [text for _, _, text in events] == ["use b", "USING b"]
    assert lost == []
