"""``fastbean cluster``: it creates a stream once, shows its leader, and rehearses a restore."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from fastbean.replication import tool
from nats_servers import NatsCluster

from .nodes import create_stream
from .test_member import Place, leader_and_standby, step_until


def address(cluster: NatsCluster, stream: str, query: str = "") -> str:
    hosts = ",".join(url.removeprefix("nats://") for url in cluster.urls)
    return f"nats://{hosts}/{stream}{query}"


def test_init_creates_a_stream_once(
    cluster: NatsCluster, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    name = f"{stream}-new"
    words = ["init", "--replicate", address(cluster, name, "?max-bytes=32M")]
    assert tool.main(words) == 0
    assert capsys.readouterr().out == f"stream {name}: created, 3 replicas, 32 MiB\n"
    assert tool.main(words) == 0
    assert capsys.readouterr().out == f"stream {name}: is there already, with these settings\n"
    assert tool.main(["init", "--replicate", address(cluster, name)]) == 0
    capsys.readouterr()
    assert tool.main(["init", "--replicate", address(cluster, name, "?max-bytes=64M&replicas=1")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"stream {name}: num_replicas is 3, and should be 1",
        f"stream {name}: max_bytes is 33554432, and should be 67108864",
    ]


def test_a_stream_that_nobody_leads_yet(
    cluster: NatsCluster, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert tool.main(["status", "--replicate", address(cluster, stream)]) == 0
    assert capsys.readouterr().out.startswith(f"leader   none yet\nstream   {stream}: sequence 0, 0 bytes of 64 MiB, ")
    assert tool.main(["check", "--replicate", address(cluster, stream)]) == 0
    assert "0 jobs with 0 bytes" in capsys.readouterr().out


def test_status_and_check_of_a_stream_in_use(
    cluster: NatsCluster, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    places = [Place(cluster.urls, stream, name) for name in "AB"]
    try:
        step_until(places, lambda: any(place.serves for place in places))
        leader, standby = leader_and_standby(places)
        standby.close()
        for number in range(1, 6):
            assert leader.command(b"put 0 0 60 5\r\nhello\r\n") == b"INSERTED %d\r\n" % number
        assert leader.command(b"delete 2\r\n") == b"DELETED\r\n"
        name = leader.member.name
    finally:
        for place in places:
            if place.member.is_running:
                place.close()
    assert tool.main(["status", "--replicate", address(cluster, stream)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"leader   {name} at {name}:1, epoch 1, fastbean 1"
    assert re.fullmatch(
        rf"stream   {stream}: sequence [\d,]+, [\d,]+ bytes of 64 MiB, [123] of 3 replicas current, led by n\d",
        lines[1],
    )
    assert tool.main(["check", "--replicate", address(cluster, stream)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"read     sequence [\d,]+, epoch 1, LSN \d+, checksum [0-9a-f]{8}: 4 jobs with 208 bytes", lines[0]
    )


def test_check_reports_what_is_unsafe(
    cluster: NatsCluster, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    name = f"{stream}-unsafe"
    asyncio.run(
        create_stream(
            cluster.urls, name, num_replicas=1, discard="old", deny_delete=False, max_bytes=-1, max_age=10**12,
            subjects=[f"fb.{name}.*"], allow_direct=True,
        )
    )  # fmt: skip
    assert tool.main(["check", "--replicate", address(cluster, name)]) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("unsafe")] == [
        f"unsafe   subjects is ['fb.{name}.*'], and should be ['fb.{name}.claim', 'fb.{name}.data']",
        "unsafe   discard is old, and should be new",
        "unsafe   deny_delete is False, and should be True",
        "unsafe   allow_direct is True, and should be False",
        "unsafe   it has 1 replicas: with fewer than 3, one machine that dies takes the queue with it",
        "unsafe   max_bytes is not set: puts are refused in time only if the limit is known",
        "unsafe   max_age is 1000000000000: old records would be dropped, or new ones refused, without a reason",
    ]


def test_what_cannot_be_done(
    cluster: NatsCluster, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    for words, status, text in (
        ([], 5, "arguments are required: COMMAND"),
        (["init"], 5, "arguments are required: --replicate"),
        (["init", "--replicate", "nats://n1"], 5, "the name of the stream is missing"),
        (["status", "--replicate", address(cluster, f"{stream}-none")], 75, "`fastbean cluster init` creates it"),
        (["check", "--replicate", "nats://127.0.0.1:1/jobs"], 75, "nats://127.0.0.1:1: "),
        (
            ["init", "--replicate", address(cluster, stream), "--replicate-credentials", str(tmp_path / "none")],
            5,
            "No such file",
        ),
    ):
        assert tool.main(words) == status
        complaint = capsys.readouterr().err
        assert text in complaint
        assert complaint.count("\n") == 1


def test_a_stream_with_the_messages_of_others(
    cluster: NatsCluster, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    import nats

    async def publish() -> None:
        client = await nats.connect(cluster.urls)
        await client.jetstream().publish(f"fb.{stream}.data", b"hello")
        await client.close()

    asyncio.run(publish())
    assert tool.main(["check", "--replicate", address(cluster, stream)]) == 76
    assert "message 1: it has 5 bytes, and the header alone has 48" in capsys.readouterr().err
