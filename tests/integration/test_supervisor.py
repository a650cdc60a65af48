"""The supervisor with real child processes: order, restart, stop, and no orphan, ever."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from services.fleet.child import Child
from services.fleet.errors import NotReadyError
from services.fleet.supervisor import ChildState, Policy, Supervisor, running
from tests.unit.fleet.waiting import exists, until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
QUICK = Policy(first_backoff_seconds=0.01, backoff_ceiling_seconds=0.05, stop_deadline_seconds=5)

SLEEP = "import time\ntime.sleep(600)"
STUBBORN = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    time.sleep(600)
"""


def script(name: str, code: str, **options) -> Child:
    return Child(name=name, argv=(sys.executable, "-c", textwrap.dedent(code)), **options)


class Lines:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        """Keep a line."""
        self.all.append((name, line))

    def of(self, name: str) -> list[str]:
        """Give the lines of one child."""
        return [line for owner, line in self.all if owner == name]


async def test_child_waits_until_what_it_requires_is_ready(tmp_path):
    flag = tmp_path / "ready"
    slow = f"""
        import os, pathlib, time
        time.sleep(0.3)
        pathlib.Path({str(flag)!r}).write_text(str(os.getpid()))
        time.sleep(600)
    """
    fast = f"""
        import pathlib, time
        print("flag" if pathlib.Path({str(flag)!r}).exists() else "too early", flush=True)
        time.sleep(600)
    """
    lines = Lines()

    async def written(pid: int) -> bool:
        return await asyncio.to_thread(lambda: flag.exists() and flag.read_text() == str(pid))

    children = [
        script("second", fast, requires=("first",)),
        script("first", slow, probe=written),
    ]

    async with running(*children, sink=lines, policy=QUICK):
        await until(lambda: lines.of("second"))

    assert lines.of("second") == ["flag"]


async def test_killed_child_is_started_again_and_counted():
    async with running(script("one", SLEEP), policy=QUICK) as supervisor:
        first = supervisor.status["one"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.status["one"].pid not in {first, None})

        assert supervisor.status["one"].restarts == 1
        assert supervisor.status["one"].last_exit == -signal.SIGKILL
    assert supervisor.status["one"].state is ChildState.STOPPED


async def test_child_that_exits_by_itself_is_started_again():
    lines = Lines()
    stop = asyncio.Event()
    supervisor = Supervisor([script("one", "print('hello')")], sink=lines, policy=QUICK)
    task = asyncio.create_task(supervisor.run(stop))
    await until(lambda: len(lines.of("one")) >= 3)
    stop.set()
    await task

    assert supervisor.status["one"].restarts >= 2
    assert set(lines.of("one")) == {"hello"}


async def test_child_that_never_gets_ready_is_replaced_and_named():
    async def never(pid: int) -> bool:
        del pid
        return False

    policy = Policy(first_backoff_seconds=0.01, ready_deadline_seconds=0.2)
    stop = asyncio.Event()
    supervisor = Supervisor([script("mute", SLEEP, probe=never)], policy=policy)
    task = asyncio.create_task(supervisor.run(stop))
    with pytest.raises(NotReadyError, match="still waiting for: mute"):
        await supervisor.ready(0.1)
    await until(lambda: supervisor.status["mute"].restarts >= 1)
    stop.set()
    await task

    assert supervisor.status["mute"].last_exit is not None


async def test_output_of_both_streams_arrives_cut_into_bounded_lines():
    code = """
        import sys, time
        print("out", flush=True)
        print("err", file=sys.stderr, flush=True)
        print("x" * 1_000_000, flush=True)
        sys.stdout.write("no newline")
        sys.stdout.flush()
        sys.exit(0)
    """
    lines = Lines()
    stop = asyncio.Event()
    policy = Policy(first_backoff_seconds=60, backoff_ceiling_seconds=60)
    supervisor = Supervisor([script("one", code)], sink=lines, policy=policy)
    task = asyncio.create_task(supervisor.run(stop))
    await until(lambda: supervisor.status["one"].state is ChildState.BACKOFF)
    stop.set()
    await task

    seen = lines.of("one")
    assert {"out", "err", "no newline"} <= set(seen)
    assert max(len(line) for line in seen) < 9_000
    assert any("bytes more" in line for line in seen)


async def test_children_stop_in_the_reverse_of_the_order_they_started_in(tmp_path):
    diary = tmp_path / "diary"
    code = """
        import pathlib, signal, sys, time
        def end(number, frame):
            with open({diary!r}, "a") as file:
                file.write("{name}\\n")
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        time.sleep(600)
    """
    lines = Lines()

    def told(name):
        async def probe(pid: int) -> bool:
            del pid
            return bool(lines.of(name))

        return probe

    children = [
        script(
            name,
            code.format(diary=str(diary), name=name),
            requires=requires,
            probe=told(name),
        )
        for name, requires in (("a", ()), ("b", ("a",)), ("c", ("b",)))
    ]
    async with running(*children, sink=lines, policy=QUICK):
        pass

    assert diary.read_text().split() == ["c", "b", "a"]


async def test_child_that_ignores_sigterm_is_killed_within_the_deadline():
    lines = Lines()

    async def deaf(pid: int) -> bool:
        del pid
        return bool(lines.of("stubborn"))

    policy = Policy(stop_deadline_seconds=0.5)
    children = [script("base", SLEEP), script("stubborn", STUBBORN, requires=("base",), probe=deaf)]
    async with running(*children, sink=lines, policy=policy) as supervisor:
        pids = [status.pid for status in supervisor.status.values()]

    assert supervisor.status["stubborn"].last_exit == -signal.SIGKILL
    assert supervisor.status["base"].last_exit == -signal.SIGTERM
    assert not any(pid is not None and exists(pid) for pid in pids)


async def test_what_a_child_started_itself_does_not_outlive_it():
    code = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    lines = Lines()
    async with running(script("parent", code), sink=lines, policy=QUICK) as supervisor:
        await until(lambda: lines.of("parent"))
        grandchild = int(lines.of("parent")[0])
        pid = supervisor.status["parent"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not exists(grandchild))


async def test_stop_during_a_backoff_ends_at_once():
    stop = asyncio.Event()
    policy = Policy(first_backoff_seconds=600, backoff_ceiling_seconds=600)
    supervisor = Supervisor([script("one", "raise SystemExit(3)")], policy=policy)
    task = asyncio.create_task(supervisor.run(stop))
    await until(lambda: supervisor.status["one"].state is ChildState.BACKOFF)
    stop.set()
    async with asyncio.timeout(10):
        await task

    assert supervisor.status["one"].last_exit == 3


async def test_error_in_a_probe_stops_every_child_and_is_raised():
    async def broken(pid: int) -> bool:
        raise LookupError(pid)

    lines = Lines()
    children = [script("good", SLEEP), script("bad", SLEEP, probe=broken)]
    supervisor = Supervisor(children, sink=lines, policy=QUICK)
    with pytest.raises(LookupError):
        await supervisor.run(asyncio.Event())

    assert {status.pid for status in supervisor.status.values()} == {None}


async def test_cancelled_supervisor_leaves_no_child():
    supervisor = Supervisor([script("one", SLEEP)], policy=QUICK)
    task = asyncio.create_task(supervisor.run(asyncio.Event()))
    await supervisor.ready(20)
    pid = supervisor.status["one"].pid
    assert pid is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not exists(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_child_survives_the_death_of_the_fleet_process(number, tmp_path):
    """One child obeys the kernel's death signal, one is deaf: the guardian ends that one."""
    fleet = tmp_path / "fleet.py"
    fleet.write_text(
        textwrap.dedent(
            f"""
            import asyncio, sys
            from services.fleet.child import Child
            from services.fleet.guard import guarded
            from services.fleet.supervisor import Supervisor

            def show(name, line):
                print(name, line, flush=True)

            polite = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
            deaf = '''import os, signal, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(os.getpid(), flush=True)
            while True: time.sleep(600)
            '''.replace(" " * 12, "")

            async def main():
                with guarded(0.5) as guard:
                    supervisor = Supervisor(
                        [Child(name=name, argv=(sys.executable, "-c", code))
                         for name, code in (("polite", polite), ("deaf", deaf))],
                        sink=show, guard=guard)
                    await supervisor.run(asyncio.Event())

            sys.path.insert(0, {str(ROOT)!r})
            asyncio.run(main())
            """
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(fleet),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    pids: dict[str, int] = {}
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            while set(pids) != {"polite", "deaf"}:
                words = (await process.stdout.readline()).decode().split()
                if len(words) == 2 and words[0] in {"polite", "deaf"}:
                    pids[words[0]] = int(words[1])
        assert all(exists(pid) for pid in pids.values())
        process.send_signal(number)
        await process.wait()
        await until(lambda: not any(exists(pid) for pid in pids.values()))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
