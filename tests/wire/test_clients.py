"""Four client libraries that people use, each through a working day of a producer, a worker and a maintainer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import aiostalk
import greenstalk
import pytest
from pystalk import BeanstalkClient, BeanstalkError
from pystalkd.Beanstalkd import CommandFailed, Connection, DeadlineSoon

from .servers import HOST, Server

TUBE = "mail"
LARGE = "x" * 60000


def reserve_again(reserve: Callable[[], object], expected: object) -> None:
    """Reserves until that fails: when the machine pauses, a ttr of a second runs out, and the job comes once more."""
    while True:
        assert reserve() == expected


def test_greenstalk(server: Server) -> None:
    address = (HOST, server.port)
    with (
        greenstalk.Client(address, use=TUBE) as producer,
        greenstalk.Client(address, watch=TUBE) as worker,
        greenstalk.Client(address, use=TUBE) as maintainer,
    ):
        first = producer.put("first", priority=5, ttr=60)
        urgent = producer.put("urgent", priority=0)
        late = producer.put("late", delay=100)
        assert (producer.using(), worker.watching()) == (TUBE, [TUBE])
        assert maintainer.peek(late).body == "late"
        assert maintainer.peek_ready().id == urgent
        assert maintainer.peek_delayed().id == late

        job = worker.reserve()
        assert (job.id, job.body) == (urgent, "urgent")
        worker.touch(job)
        worker.delete(job)
        job = worker.reserve(timeout=1)
        assert job.id == first
        worker.bury(job, priority=7)
        with pytest.raises(greenstalk.NotFoundError):
            worker.release(job)
        assert maintainer.peek_buried().id == first
        assert maintainer.stats_job(first)["buries"] == 1
        maintainer.kick_job(first)
        job = worker.reserve()
        worker.release(job, priority=9, delay=100)
        assert maintainer.stats_job(first)["state"] == "delayed"
        assert maintainer.kick(10) == 2
        assert {worker.reserve().id, worker.reserve().id} == {first, late}
        with pytest.raises(greenstalk.TimedOutError):
            worker.reserve(timeout=0)

        assert maintainer.stats_tube(TUBE)["current-jobs-reserved"] == 2
        assert maintainer.stats()["current-jobs-reserved"] == 2
        assert set(maintainer.tubes()) == {"default", TUBE}
        maintainer.pause_tube(TUBE, 1)
        producer.put(LARGE)
        assert worker.reserve(timeout=100).body == LARGE
        with pytest.raises(greenstalk.JobTooBigError):
            producer.put("x" * 65536)
        with pytest.raises(greenstalk.NotIgnoredError):
            worker.ignore(TUBE)
        assert worker.reserve_job(producer.put("by id", delay=100)).body == "by id"
        producer.put("soon", delay=1)
        assert worker.reserve(timeout=100).body == "soon"


def test_greenstalk_and_reservations_that_run_out(server: Server) -> None:
    address = (HOST, server.port)
    with greenstalk.Client(address) as worker, greenstalk.Client(address) as other:
        number = other.put("x", ttr=1)
        with pytest.raises(greenstalk.DeadlineSoonError):
            reserve_again(lambda: worker.reserve().id, number)
        # The real server may not see the end of the ttr before it hears from this client.
        while other.stats_job(number)["timeouts"] == 0:
            worker.using()
        assert other.reserve(timeout=100).id == number


def test_pystalk(server: Server) -> None:
    producer, worker, maintainer = (BeanstalkClient(HOST, server.port, 120, auto_decode=True) for _ in range(3))
    with closing(producer), closing(worker), closing(maintainer):
        _, first = producer.put_job_into(TUBE, "first", pri=5)
        _, urgent = producer.put_job_into(TUBE, "urgent", pri=0)
        producer.use(TUBE)
        _, late = producer.put_job("late", delay=100)
        worker.watch(TUBE)
        assert set(worker.list_tubes()) == {"default", TUBE}
        maintainer.use(TUBE)
        assert maintainer.peek_ready().job_id == urgent
        assert maintainer.peek_delayed().job_id == late

        job = worker.reserve_job()
        assert (job.job_id, job.job_data) == (urgent, "urgent")
        worker.delete_job(job)
        job = worker.reserve_job()
        worker.bury_job(job)
        assert maintainer.peek_buried().job_id == first
        assert maintainer.stats_job(first)["state"] == "buried"
        maintainer.kick_job(first)
        job = worker.reserve_job()
        worker.release_job(job, pri=3, delay=100)
        assert maintainer.kick_jobs(10) == (b"KICKED", 2)
        assert {job.job_id for job in worker.reserve_iter()} == {first, late}
        with pytest.raises(BeanstalkError, match="TIMED_OUT"):
            worker.reserve_job(timeout=0)

        assert maintainer.stats_tube(TUBE)["current-jobs-reserved"] == 2
        assert maintainer.stats()["total-jobs"] == 3
        maintainer.pause_tube(TUBE, 1000)
        producer.put_job(LARGE)
        with pytest.raises(BeanstalkError, match="TIMED_OUT"):
            worker.reserve_job(timeout=0)
        maintainer.unpause_tube(TUBE)
        assert worker.reserve_job().job_data == LARGE
        producer.put_job("soon", delay=1)
        assert worker.reserve_job(timeout=100).job_data == "soon"
        with pytest.raises(BeanstalkError, match="NOT_FOUND"):
            worker.delete_job(12345)


def test_pystalkd(server: Server) -> None:
    producer, worker, maintainer = (Connection(HOST, server.port) for _ in range(3))
    with closing(producer), closing(worker), closing(maintainer):
        producer.use(TUBE)
        first = producer.put("first", priority=5)
        urgent = producer.put("urgent", priority=0)
        late = producer.put("late", delay=100)
        assert worker.watch(TUBE) == 2
        assert worker.ignore("default") == 1
        assert (producer.using(), worker.watching()) == (TUBE, [TUBE])
        maintainer.use(TUBE)
        assert maintainer.peek_ready().job_id == urgent
        assert maintainer.peek_delayed().job_id == late
        assert maintainer.peek(12345) is None

        job = worker.reserve()
        assert (job.job_id, job.body) == (urgent, "urgent")
        job.touch()
        job.delete()
        job = worker.reserve(timeout=100)
        job.bury(9)
        assert maintainer.peek_buried().job_id == first
        assert maintainer.stats_job(first)["pri"] == 9
        maintainer.kick_job(first)
        job = worker.reserve()
        job.release(priority=3, delay=100)
        assert maintainer.kick(10) == 2
        assert {worker.reserve().job_id, worker.reserve().job_id} == {first, late}
        assert worker.reserve(timeout=0) is None

        assert maintainer.stats_tube(TUBE)["current-jobs-reserved"] == 2
        assert maintainer.stats()["total-jobs"] == 3
        assert set(maintainer.tubes()) == {"default", TUBE}
        maintainer.pause_tube(TUBE, 1)
        producer.put_bytes(b"\x00\xff")
        assert worker.reserve_bytes(timeout=100).body == b"\x00\xff"
        producer.put("brief", delay=1, ttr=1)
        with pytest.raises(DeadlineSoon):
            reserve_again(lambda: worker.reserve(timeout=100).body, "brief")
        with pytest.raises(CommandFailed, match="NOT_FOUND"):
            worker.delete(12345)


def test_aiostalk(server: Server) -> None:
    asyncio.run(_aiostalk((HOST, server.port)))


async def _aiostalk(address: tuple[str, int]) -> None:
    async with (
        aiostalk.Client(address, use=TUBE) as producer,
        aiostalk.Client(address, watch=TUBE) as worker,
        aiostalk.Client(address, use=TUBE) as maintainer,
    ):
        waiting = asyncio.create_task(worker.reserve())
        while (await maintainer.stats())["current-waiting"] == 0:
            pass
        urgent = await producer.put("urgent", priority=0)
        job = await waiting
        assert (job.id, job.body) == (urgent, "urgent")
        await worker.touch(job)
        await worker.delete(job)

        first = await producer.put("first", priority=5)
        late = await producer.put("late", delay=100)
        assert (await maintainer.peek(late)).body == "late"
        assert (await maintainer.peek_ready()).id == first
        assert (await maintainer.peek_delayed()).id == late
        job = await worker.reserve(timeout=1)
        await worker.bury(job)
        assert (await maintainer.peek_buried()).id == first
        assert await maintainer.kick(1) == 1
        job = await worker.reserve()
        await worker.release(job, delay=100)
        assert (await maintainer.stats_job(first))["releases"] == 1
        assert await maintainer.kick(10) == 2
        assert {(await worker.reserve()).id, (await worker.reserve()).id} == {first, late}
        await _expect(greenstalk.TimedOutError, worker.reserve, 0)

        assert (await maintainer.stats_tube(TUBE))["current-jobs-reserved"] == 2
        assert set(await maintainer.tubes()) == {"default", TUBE}
        assert (await producer.using(), await worker.watching()) == (TUBE, [TUBE])
        await maintainer.pause_tube(TUBE, 1)
        await producer.put(LARGE)
        assert (await worker.reserve(timeout=100)).body == LARGE
        number = await producer.put("by id", delay=100)
        assert (await worker.reserve_job(number)).body == "by id"
        await producer.put("soon", delay=1)
        assert (await worker.reserve(timeout=100)).body == "soon"
        await _expect(greenstalk.NotIgnoredError, worker.ignore, TUBE)
        await _expect(greenstalk.NotFoundError, worker.delete, 12345)


async def _expect(error: type[Exception], call: Callable[..., Any], argument: object) -> None:
    with pytest.raises(error):
        await call(argument)
