"""The life of a process: nothing owned is lost, one deadline, signals end it."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from libs.common.lifecycle import (
    EXIT_DEADLINE,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_SECOND_SIGNAL,
    Lifecycle,
    TaskEndedError,
    sleep_unless,
)


async def _nothing():
    return None


async def _raise():
    raise ValueError("broken")


async def test_task_that_ends_unasked_stops_the_process():
    life = Lifecycle()
    life.spawn(_nothing(), name="feed")
    await asyncio.wait_for(life.until_stopped(), 5)
    assert isinstance(life.failure, TaskEndedError)


async def test_task_that_raises_stops_the_process_with_its_error():
    life = Lifecycle()
    life.spawn(_raise(), name="feed", may_end=True)
    await asyncio.wait_for(life.until_stopped(), 5)
    assert isinstance(life.failure, ValueError)


async def test_finite_task_may_end_and_may_be_cancelled():
    life = Lifecycle()
    life.spawn(_nothing(), name="once", may_end=True)
    cancelled = life.spawn(asyncio.sleep(60), name="long", may_end=True)
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0.01)
    assert life.failure is None
    assert not life.stop.is_set()


async def test_task_that_does_not_listen_is_cancelled():
    life = Lifecycle(deadline_seconds=0.2)
    deaf = life.spawn(asyncio.sleep(60), name="deaf")
    life.request_stop("test")
    await life.until_stopped()
    assert deaf.cancelled()
    assert life.failure is None


async def test_sleep_ends_at_once_when_asked_to_stop():
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert await sleep_unless(stop, 60)
    assert await sleep_unless(stop, 60)
    assert not await sleep_unless(asyncio.Event(), 0.001)


PROGRAM = """
import asyncio, sys, time
from libs.common import lifecycle
from libs.common.settings import BaseServiceSettings, load
settings = load(BaseServiceSettings, stop_deadline_seconds=0.7)
async def serve(life):
    print("up", flush=True)
    {body}
    await life.until_stopped()
sys.exit(lifecycle.run("test", settings, serve))
"""


def _run(body, tmp_path, *signals):
    program = PROGRAM.format(body=textwrap.dedent(body).replace("\n", "\n    "))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        for number in signals:
            time.sleep(0.1)
            process.send_signal(number)
        return process.wait(timeout=20)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_process_cleanly(tmp_path, number):
    assert _run("pass", tmp_path, number) == EXIT_OK


def test_failure_shows_in_the_exit_status(tmp_path):
    assert _run("raise ValueError('broken')", tmp_path) == EXIT_FAILED


def test_process_that_hangs_is_left_at_its_deadline(tmp_path):
    # A blocked event loop: nothing asynchronous could keep the deadline.
    assert _run("await life.stop.wait(); time.sleep(60)", tmp_path, signal.SIGTERM) == EXIT_DEADLINE


def test_second_signal_leaves_at_once(tmp_path):
    status = _run(
        "await life.stop.wait(); await asyncio.sleep(60)",
        tmp_path,
        signal.SIGTERM,
        signal.SIGTERM,
    )
    assert status == EXIT_SECOND_SIGNAL
