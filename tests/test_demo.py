import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from durable_store import CheckpointKey, open_store
from durable_store.cli.agents import Job, Life, _reports
from durable_store.cli.demo import Kill, Trial, broken_promises, differences
from durable_store.cli.reviewer import review, source_files, take_apart

DEMO = [sys.executable, "-m", "durable_store.cli", "demo"]
ROW = re.compile(r" +(\d+) +\d+ +step (\d+)  (reviewing for|committing|idle after) step (\d+) +step (\d+) +(\d+)")

procfs = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")


def run_demo(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *args], capture_output=True, check=False, cwd=cwd, text=True, timeout=120)


@pytest.mark.parametrize("url", ["sqlite:///runs.db", "file://{here}/runs"])
def test_a_killed_agent_ends_where_an_uninterrupted_one_does(url: str, tmp_path: Path) -> None:
    url = url.format(here=tmp_path)
    done = run_demo(url, "--kills", "3", "--turns", "20", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the final state is equal: 40 messages" in done.stdout
    kills = [match.groups() for match in map(ROW.fullmatch, done.stdout.splitlines()) if match]
    assert [int(number) for number, *_ in kills] == [1, 2, 3]
    for _, acknowledged, phase, step, resumed, redone in kills:
        assert int(resumed) in {int(acknowledged), int(acknowledged) + 1}
        assert int(step) == int(acknowledged) + (phase != "idle after")
        assert int(redone) == int(step) - int(resumed)


def test_by_default_it_makes_a_new_directory_and_says_how_to_look_into_it(tmp_path: Path) -> None:
    (tmp_path / "durable-store-demo-1").mkdir()
    done = run_demo("--kills", "1", "--turns", "5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "durable-store-demo-2" / "runs.db").is_file()
    assert not list((tmp_path / "durable-store-demo-1").iterdir())
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ") and "://" in line]
    assert len(lines) == 3
    for line, says in zip(lines, ("finished", "WRITER", "Review "), strict=True):
        pasted = subprocess.run(shlex.split(line), capture_output=True, check=True, cwd=tmp_path, text=True)
        assert says in pasted.stdout


def test_a_store_can_be_used_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_demo("runs", "--kills", "1", "--turns", "3", cwd=tmp_path).returncode == 0
    with open_store(tmp_path / "runs") as store:
        keys = list(store.keys(None))
    assert len({key.goal_id for key in keys}) == 2


def test_the_fewest_turns_that_kills_need_are_enough(tmp_path: Path) -> None:
    assert run_demo("runs", "--kills", "3", "--turns", "7", cwd=tmp_path).returncode == 0


def test_an_agent_that_fails_is_a_failed_demo_with_its_error_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the place of the directory")
    done = run_demo("runs", "--kills", "1", "--turns", "5", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("durable-store: the agent failed: cannot ")
    assert done.stderr.count("\n") == 1


def test_a_report_that_a_kill_has_torn_is_no_report() -> None:
    code = "import os; os.write(1, b'resumed 3 0\\nbegin 4\\nresumed')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert list(_reports(process)) == [("resumed", ["3", "0"]), ("begin", ["4"])]


def test_no_kill_can_come_between_two_parts_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    ours, agents = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # it keeps writes apart
    ours.settimeout(20)
    command = [sys.executable, "-m", "durable_store.cli.reviewer", str(tmp_path / "runs"), "goal", "1", "7"]
    with ours, agents, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=agents.fileno()) as agent:
        assert agent.stdin
        agent.stdin.write(b"\n")
        agent.stdin.close()
        writes = [ours.recv(4096)]
        while b"finished" not in writes[-1]:
            writes.append(ours.recv(4096))
    assert writes == [b"resumed -1 0\n", b"begin 0\n", b"commit 0\n", b"committed 0\n", b"finished\n"]


def test_the_demo_runs_unbuffered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    done = run_demo("runs", "--kills", "20", "--turns", "60", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_modules_in_the_current_directory_are_none_of_the_agents(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not the json of the standard library')")
    safe = [sys.executable, "-P", *DEMO[1:], "runs", "--kills", "1", "--turns", "3"]  # as the script durable-store is
    done = subprocess.run(safe, capture_output=True, check=False, cwd=tmp_path, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("acknowledged", "begun", "resumed", "says"),
    [
        (5, 6, 4, "kill 1 lost 1 turns: step 5 was acknowledged, step 4 resumed; after kill 1 2 turns were redone"),
        (5, 6, -1, "kill 1 lost 6 turns: step 5 was acknowledged, step -1 resumed; after kill 1 7 turns were redone"),
        (5, 6, 5, ""),
        (5, 6, 6, ""),
    ],
)
def test_lost_turns_and_too_many_redone_are_told(acknowledged: int, begun: int, resumed: int, says: str) -> None:
    victim = Life(1, acknowledged=acknowledged, begun=begun, last="commit", killed=True)
    trial = Trial(Job("runs", "demo", 60, 7), 1, Console(), Random(7), [Kill(1, victim, Life(2, resumed=resumed))])
    assert "; ".join(broken_promises(trial)) == says


def test_a_kill_that_came_too_late_is_told() -> None:
    trial = Trial(Job("runs", "demo", 60, 7), 2, Console(), Random(7))
    assert broken_promises(trial) == ["of 2 kills only 0 came before the agent had finished"]


def test_final_states_that_differ_are_told(tmp_path: Path) -> None:
    lives = [Life(1, CheckpointKey("demo", number, "reviewer-0")) for number in range(4)]
    with open_store(tmp_path) as store:
        for life, messages in zip(lives, ([1, 2], [1, 3], [1, 2]), strict=False):
            store.save(life.key or CheckpointKey("", 0, ""), 0, {"messages": messages})
        assert differences(store, lives[0], lives[1]) == ["the final states differ, first at $.messages[1]"]
        assert differences(store, lives[0], lives[3]) == ["an agent has finished, and its checkpoints are not there"]
        assert differences(store, lives[0], lives[2]) == []
        resumed = Life(1, lives[2].key, resumed=0)
        assert "did not start afresh" in differences(store, lives[0], resumed)[0]


@contextmanager
def long_demo(url: str) -> Generator[subprocess.Popen[str]]:
    """A demo that has far to go and whose first kill is behind it."""
    command = [*DEMO, url, "--kills", "500", "--turns", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        assert any(ROW.match(line) for line in demo.stdout)
        try:
            yield demo
        finally:
            demo.kill()


def agents_of(url: str) -> list[int]:
    """The agents that work on this URL, each opened, so that its number cannot come to mean another process."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        try:
            if (
                process.name.isdecimal()
                and b"durable_store.cli.reviewer\0" + url.encode() in (process / "cmdline").read_bytes()
            ):
                found.append(os.pidfd_open(int(process.name)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def has_ended(agent: int) -> bool:
    poll = select.poll()
    poll.register(agent, select.POLLIN)
    ended = poll.poll(20_000)
    os.close(agent)
    return bool(ended)


@procfs
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, -15)])
def test_no_agent_outlives_a_demo_that_is_stopped(ending: signal.Signals, status: int, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    with long_demo(url) as demo:
        demo.send_signal(signal.SIGSTOP)
        agents = agents_of(url)
        demo.send_signal(signal.SIGCONT)
        demo.send_signal(ending)
        _, err = demo.communicate(timeout=20)
        assert demo.returncode == status
        assert err == ("durable-store: stopped\n" if ending == signal.SIGINT else "")
        assert all(map(has_ended, agents))
    assert not agents_of(url)


def test_every_process_takes_the_same_files_apart_in_the_same_way() -> None:
    code = "from durable_store.cli.reviewer import *; f = source_files(3); print([review(f, n) for n in range(9)])"
    files = source_files(3)
    here = repr([review(files, turn) for turn in range(9)])
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, env={"PYTHONHASHSEED": "5"}
    )
    assert there.stdout.strip() == here
    assert files != source_files(4)


def test_a_file_that_does_not_parse_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def")
    assert review([str(tmp_path / "bad.py"), "ast.py"], 0) == review(["ast.py"], 0)


def test_a_review_tells_what_is_in_the_file() -> None:
    source = b'''"""Doc."""
import a.b
from . import c

class C:
    async def f(self):
        if self:
            pass
'''
    assert take_apart(source) == {
        "lines": 8,
        "classes": ["C"],
        "functions": 1,
        "async_functions": 1,
        "imports": [".", "a.b"],
        "branches": 1,
        "documented": 1,
        "documentable": 3,
        "longest_function": {"name": "f", "lines": 3},
    }
