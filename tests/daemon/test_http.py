"""`--http`: the daemon answers probes."""

import socket
import urllib.request


def test_probes_are_answered_where_the_settings_say(start):
    daemon = start("--http", "127.0.0.1:0")
    address = daemon.wait_for_line(r" INFO listening-for-http address=(\S+)")[1]
    with urllib.request.urlopen(f"http://{address}/readyz") as answer:
        assert (answer.status, answer.read()) == (200, b"serving\n")
    assert daemon.stop() == 0


def test_an_address_of_probes_that_is_taken_is_reported(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("-l", "127.0.0.1:0", "--http", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 111
    assert "another server has this address" in done.stderr
