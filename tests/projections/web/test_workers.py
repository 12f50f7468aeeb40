"""The threads of reads: what is left of a request that has its answer, and the end of a process."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from projections.web.console import Console
from projections.web.routes import make_app
from projections.web.workers import WORKERS_MAX
from tests.harness.read_side import append, project
from tests.harness.signals import signals

STOP_S_MAX = 2.0  # the promise
ENDING = """
import asyncio, time
from projections.web.workers import Workers

async def main():
    workers = Workers()
    reading = asyncio.ensure_future(workers.run(lambda: time.sleep(60)))
    await asyncio.sleep(0.1)
    reading.cancel()

asyncio.run(main())
"""


def test_a_request_for_outcomes_leaves_no_work_behind_when_all_threads_are_busy(home: Path) -> None:
    append(home, *signals(3))
    project(home)

    async def use() -> None:
        console = Console(home, is_read_only=False)
        ends = threading.Event()
        busy = [
            asyncio.ensure_future(console.workers.run(lambda: ends.wait(60)))
            for _ in range(WORKERS_MAX)
        ]
        await asyncio.sleep(0)
        count = len(asyncio.all_tasks())
        transport = httpx.ASGITransport(app=make_app(console, None))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answers = await asyncio.gather(*(client.get("/api/outcomes") for _ in range(20)))
            assert {answer.status_code for answer in answers} == {202}
            assert len(asyncio.all_tasks()) <= count + WORKERS_MAX  # their threads
            ends.set()
            await asyncio.gather(*busy)
            assert (await client.get("/api/outcomes")).status_code == 200

    asyncio.run(use())


def test_the_end_of_the_process_waits_for_no_read() -> None:
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", ENDING], check=True, timeout=30)
    assert time.monotonic() - started_s < STOP_S_MAX
