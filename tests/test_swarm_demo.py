import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from durable_store.cli.swarm import Kill, Trial, compare
from durable_store.cli.swarm_agents import Task
from durable_store.cli.swarm_audit import Audit, differences, wrongly_sent
from tests.servers import Server
from tests.test_demo import DEMO, has_ended, procfs, run_demo

SMALL = ("--attempts", "2", "--children", "2", "--kills", "3", "--turns", "5")
ROW = re.compile(r" +(\d+) +(\d+)  (\d+ \d+ \d+) +(root|child \d) [a-z ]+ ([\d-]+ [\d-]+ [\d-]+) +(\d+) +(\d+)")


def check_kept(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    kept = [line[6:] for line in done.stdout.splitlines() if line.startswith("  ok  ")]
    assert [line.split(",")[0].split(" in ")[0].split(";")[0].split(":")[0] for line in kept] == [
        "the winner is the same",
        "no acknowledged turn was lost",
        "each of 22 mails was sent exactly once",
        "each of 4 finished children was run once",
    ]
    assert "24 turns" in kept[1]


@pytest.mark.parametrize("url", ["sqlite:///runs.db", "file://{here}/runs"])
def test_killed_swarms_end_where_uninterrupted_ones_do(url: str, tmp_path: Path) -> None:
    done = run_demo(url.format(here=tmp_path), *SMALL, "--seed", "7", cwd=tmp_path)
    check_kept(done)
    kills = [match.groups() for match in map(ROW.fullmatch, done.stdout.splitlines()) if match]
    assert [int(number) for number, *_ in kills] == [1, 2, 3]
    for _, _, acknowledged, _, resumed, _, _ in kills:
        for known, there in zip(acknowledged.split(), resumed.split(), strict=True):
            assert there == "-" or int(there) - int(known) in {0, 1}
    assert "--attempts 2 --children 2 --kills 3 --turns 5 --seed 7" in done.stdout


def test_killed_swarms_on_s3_end_where_uninterrupted_ones_do(moto_server: Server, tmp_path: Path) -> None:
    check_kept(run_demo(moto_server.url("swarm-demo"), *SMALL, cwd=tmp_path))


def test_it_says_how_to_look_into_the_store(tmp_path: Path) -> None:
    done = run_demo("--children", "1", "--kills", "1", "--turns", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "durable-store-demo-1" / "runs.db").is_file()
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ") and "://" in line]
    for line, says in zip(lines, ("orchestrator-0.reviewer-1.0", "WRITER", "undocumented"), strict=True):
        pasted = subprocess.run(shlex.split(line), capture_output=True, check=True, cwd=tmp_path, text=True)
        assert says in pasted.stdout


def test_the_fewest_turns_that_kills_need_are_enough(tmp_path: Path) -> None:
    least = ("--attempts", "1", "--children", "5", "--turns", "1", "--kills", "3")
    assert run_demo("runs", *least, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["memory://runs", "--children", "2"], "no other process can open a memory:// store"),
        (["--children", "2", "--turns", "3", "--kills", "4"], "4 kills need at least 9 turns of all agents, not 8"),
        (["--attempts", "0"], "'--attempts'"),
        (["--children", "10"], "'--children'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: list[str], says: str, tmp_path: Path) -> None:
    done = run_demo(*options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


def test_agents_that_fail_are_a_failed_demo_with_their_error_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the place of the directory")
    done = run_demo("runs", *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("durable-store: the agents failed: cannot ")
    assert done.stderr.count("\n") == 1


@contextmanager
def long_demo(url: str, directory: Path, kills: int, turns: int) -> Generator[subprocess.Popen[str]]:
    """A demo whose first kill is behind it."""
    options = ["--attempts", "2", "--children", "2", "--kills", str(kills), "--turns", str(turns)]
    environment = {**os.environ, "TMPDIR": str(directory)}
    pipe = subprocess.PIPE
    with subprocess.Popen([*DEMO, url, *options], stdout=pipe, stderr=pipe, text=True, env=environment) as demo:
        assert demo.stdout
        assert any(ROW.match(line) for line in demo.stdout)
        try:
            yield demo
        finally:
            demo.kill()


def test_a_mail_that_is_sent_twice_is_told_and_the_exit_status_is_1(tmp_path: Path) -> None:
    with long_demo(f"sqlite:///{tmp_path}/runs.db", tmp_path, 5, 12) as demo:
        assert demo.stdout
        while not (found := list(tmp_path.glob("*/mails"))):
            assert demo.stdout.readline()
        mail = found[0].read_text().splitlines()[0]
        with found[0].open("a") as mails:
            mails.write(f"{mail}\n")
        out, err = demo.communicate(timeout=100)
    says = f"mail {mail.split(':')[0]} was sent 2 times, and uninterrupted once\n"
    assert demo.returncode == 1
    assert err == f"durable-store: the demo failed: {says}"
    assert f"FAIL  {says}" in out
    assert out.count("  ok  ") == 3
    assert "The same again: " in out


def agents_of(url: str) -> list[int]:
    """The processes that work on this URL, each opened, so that its number cannot come to mean another one."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and b"swarm_agents\0" + url.encode() in (process / "cmdline").read_bytes():
                found.append(os.pidfd_open(int(process.name)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


@procfs
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, -15)])
def test_no_agents_outlive_a_demo_that_is_stopped(ending: signal.Signals, status: int, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    with long_demo(url, tmp_path, 200, 500) as demo:
        demo.send_signal(signal.SIGSTOP)
        agents = agents_of(url)
        demo.send_signal(signal.SIGCONT)
        demo.send_signal(ending)
        _, err = demo.communicate(timeout=20)
        assert demo.returncode == status
        assert err == ("durable-store: stopped\n" if ending == signal.SIGINT else "")
        assert all(map(has_ended, agents))
        assert all(map(has_ended, agents_of(url)))  # one that was just being started finds nobody there
    assert not agents_of(url)
    if ending == signal.SIGINT:
        assert list(tmp_path.iterdir()) == list(tmp_path.glob("runs.db*"))


def audit(*processes: str) -> Audit:
    """Of two attempts with a child of two turns each, and of reports as they come from the processes."""
    heard = Audit(Task("", "", 2, 1, 2, 0, "").turns)
    for reports in processes:
        heard.next_process()
        for report in reports.split(", "):
            event, who, *turn = report.split()
            heard.hear(event, who, int(turn[0]) if turn else 0)
    heard.end()
    return heard


ROOT = "reached 0 0, begin 0 0"
CHILD = "reached 0/0 0, begin 0/0 0, mail 0/0 0, commit 0/0 0, reached 0/0 1, begin 0/0 1, mail 0/0 1, commit 0/0 1"
END = "finished 0/0, commit 0 0, reached 0 1, begin 0 1, commit 0 1, finished 0"
FIRST = f"{ROOT}, {CHILD}, {END}"
SECOND = re.sub(r"(reached|begin|mail|commit|finished) 0", r"\1 1", FIRST)


def test_what_uninterrupted_and_killed_swarms_report_is_in_order() -> None:
    for heard in (
        audit(f"{FIRST}, {SECOND}"),
        audit(FIRST, SECOND),
        audit(f"{ROOT}, {CHILD}", f"{ROOT}, reached 0/0 1, begin 0/0 1, {END}", SECOND),  # not acknowledged
        audit(f"{ROOT}, {CHILD}", f"{ROOT}, {END}", SECOND),  # committed and not acknowledged
        audit(f"{ROOT}, {CHILD}, finished 0/0", f"{ROOT}, {END}", SECOND),
        audit(FIRST.removesuffix(", finished 0"), SECOND),
    ):
        assert (heard.lost, heard.run_again) == ([], [])
        assert heard.acknowledged == heard.begun == heard.turns


@pytest.mark.parametrize(
    ("processes", "lost", "run_again"),
    [
        (
            (f"{ROOT}, {CHILD}", FIRST, SECOND),
            "1 turns of child 0 of attempt 0 were acknowledged, and process 2 went on behind 0",
            "",
        ),
        (
            (ROOT, f"{ROOT}, reached 0/0 1, begin 0/0 1, {END}", SECOND),
            "child 0 of attempt 0 comes to turn 1, and never began turn 0",
            "",
        ),
        ((FIRST,), "root of attempt 1 took 0 turns of 2; child 0 of attempt 1 took 0 turns of 2", ""),
        (
            (f"{ROOT}, {CHILD}, finished 0/0", f"{ROOT}, reached 0/0 1, begin 0/0 1, {END}", SECOND),
            "",
            "child 0 of attempt 0 had finished, and acts again in process 2",
        ),
        ((FIRST, f"{ROOT}, {SECOND}"), "", "root of attempt 0 had finished, and acts again in process 2"),
        (
            (f"{ROOT}, {CHILD}, reached 0/0 1, begin 0/0 1, {END}, {SECOND}",),
            "",
            "child 0 of attempt 0 began turn 1 twice in process 1",
        ),
    ],
)
def test_turns_that_are_lost_or_run_again_are_told(processes: tuple[str, ...], lost: str, run_again: str) -> None:
    heard = audit(*processes)
    assert ("; ".join(heard.lost), "; ".join(heard.run_again)) == (lost, run_again)


def test_mails_that_are_not_sent_exactly_once_are_told() -> None:
    assert wrongly_sent(["0/0/0: a", "0/0/1: b"], ["0/0/1: b", "0/0/0: a"], 2) == []
    assert wrongly_sent(["0/0/0: a", "0/0/0: a"], ["0/0/0: a", "0/0/1: b"], 2) == [
        "mail 0/0/0 was sent 2 times, and uninterrupted once",
        "mail 0/0/1 was sent never, and uninterrupted once",
    ]
    assert wrongly_sent(["0/0/0: a"], ["0/0/0: a", "0/0/0: a"], 1) == [
        "mail 0/0/0 was sent once, and uninterrupted 2 times"
    ]
    assert wrongly_sent(["0/0/0: b"], ["0/0/0: a"], 1)
    assert wrongly_sent(["0/0/0: a"], ["0/0/0: a"], 2) == ["uninterrupted, 1 mails were sent instead of 2"]


def outcome(winner: int, *scores: int) -> dict[str, Any]:
    return {"winner": winner, "attempts": [{"result": {"undocumented": n}, "score": n, "turns": 2} for n in scores]}


def test_outcomes_that_differ_are_told() -> None:
    assert differences(outcome(1, 3, 5), outcome(1, 3, 5)) == []
    assert differences(outcome(0, 3, 3), outcome(1, 3, 3)) == ["attempt 0 has won instead of attempt 1"]
    assert differences(outcome(1, 3, 5), outcome(1, 4, 5)) == [
        "score of attempt 0 is 3 instead of 4",
        "result of attempt 0 is {'undocumented': 3} instead of {'undocumented': 4}",
    ]
    assert differences(outcome(0, 3), outcome(0, 3, 2))


def test_each_broken_promise_has_a_line(tmp_path: Path) -> None:
    trials: list[Trial] = []
    for name, text in (("killed", "0/0/0: a\n0/0/0: a\n"), ("not", "0/0/0: a\n")):
        (tmp_path / name).write_text(text)
        task = Task("", "", 2, 1, 2, 0, str(tmp_path / name))
        trials.append(Trial(task, 0, Console(), random.Random(7), lambda _: None))
    killed, uninterrupted = trials
    killed.ordered = 2
    killed.kills = [Kill(1, 0, "0 0", "root at work", 0)]
    killed.outcome, uninterrupted.outcome = outcome(0, 3, 3), outcome(1, 3, 3)
    killed.audit.run_again.append("again")
    assert [broken[0] for _, broken in compare(killed, uninterrupted)] == [
        "attempt 0 has won instead of attempt 1",
        "of 2 kills only 1 came",
        "mail 0/0/0 was sent 2 times, and uninterrupted once",
        "again",
    ]


def test_no_other_command_loads_the_runtime() -> None:
    code = (
        "import sys; from durable_store.cli import main; sys.argv[1:] = ['ls', 'memory://a']\n"
        "try: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"asyncio", "durable_store.runtime", "durable_store.aio"}.isdisjoint(done.stdout.split())
