"""`copy` and `verify` as an operator meets them: counts, problems, exit statuses, a bar that leaves nothing behind."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from durable_store import CheckpointKey, open_store
from durable_store.record import encode
from tests.filled import fill, records
from tests.test_cli import ToldHere, chunks, on_a_terminal

COPIED = re.compile(r"([\d,]+) records copied \([\d.]+ \w+\), (\d+) there before\n")
TWO = "one/000000000/o-0/0000000000000002.ckpt"


@pytest.fixture
def source(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/source.db"
    with open_store(url) as store:
        fill(store, 6)
        run = store.resume("one", "o-0", keep=None)
        for number in range(4):
            run.commit({"number": number})
    return url


@pytest.fixture
def files(source: str, tmp_path: Path) -> Path:
    path = tmp_path / "files"
    assert ToldHere("copy", source, path).status == 0
    return path


def test_copy_says_how_many_were_copied_and_how_many_were_there(source: str, tmp_path: Path) -> None:
    with open_store(source) as store:
        everything = records(store.backend)
    for counts in ((str(len(everything)), "0"), ("0", str(len(everything)))):
        ran = ToldHere("copy", source, tmp_path / "files", "--verify")
        assert ran.status == 0
        match = COPIED.fullmatch(ran.out)
        assert match
        assert match.groups() == counts
        assert ran.err == ""
    with open_store(tmp_path / "files") as store:
        assert records(store.backend) == everything


def test_copy_as_json_tells_counts_and_problems(source: str, files: Path) -> None:
    record = files / TWO
    record.write_bytes(b"another")
    ran = ToldHere("copy", source, files, "--goal", "one", "--goal", "%25", "--json")
    assert ran.status == 1
    assert ran.err.startswith("durable-store: the target has other records at 1 step: one/")
    told = json.loads(ran.out)
    assert (told["copied"], told["conflicts"], told["damaged"], told["gone"]) == (0, 1, 0, 0)
    [problem] = told["problems"]
    assert (problem["goal_id"], problem["step"], problem["outcome"]) == ("one", 2, "conflict")
    assert record.read_bytes() == b"another"


def test_copy_tells_of_damage_and_copies_it(files: Path, tmp_path: Path) -> None:
    record = files / TWO
    record.write_bytes(b"damaged")
    ran = ToldHere("copy", files, tmp_path / "target")
    assert ran.status == 1
    assert ran.out.startswith("copied\tone/")
    assert ran.err.startswith("durable-store: 1 record cannot be read, copied if possible: one/")
    assert (tmp_path / "target" / TWO).read_bytes() == b"damaged"


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["copy", "{}/nothing", "{}/target"], 1, "there is no store at {}/nothing"),
        (["copy", "{}/files", "{}/files"], 2, "SRC and DST are the same store: name another one to copy into"),
        (["copy", "{}/files", "squlite:///{}/x"], 2, "no backend for squlite://; installed are"),
        (["copy", "{}/files"], 2, "Missing argument 'DST'"),
        (["verify", "{}/nothing"], 1, "there is no store at {}/nothing"),
        (["verify", "{}/files", "--goal", ""], 2, "goal_id is empty"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(args: list[str], status: int, says: str, tmp_path: Path) -> None:
    ran = ToldHere(*(arg.format(tmp_path) for arg in args))
    assert ran.status == status
    assert says.format(tmp_path) in ran.error
    assert not (tmp_path / "target").exists()


def test_verify_of_a_sound_store_says_so(files: Path) -> None:
    ran = ToldHere("verify", files)
    assert ran.status == 0
    assert re.fullmatch(r"\d+ records read \([\d.]+ kB\): nothing is wrong\n", ran.out)
    assert json.loads(ToldHere("verify", files, "--json").out) == []


def test_verify_tells_what_is_wrong_and_what_can_be_done(files: Path) -> None:
    (files / "notes.txt").touch()
    ran = ToldHere("verify", files)
    assert ran.status == 0
    assert re.search(r"^foreign\t\S+/notes.txt\t", ran.out)
    assert ran.out.endswith(": 1 odd\n")
    record = files / TWO
    record.write_bytes(b"")
    ran = ToldHere("verify", files)
    assert ran.status == 1
    assert re.fullmatch(r"durable-store: \d+ records read \([\d.]+ kB\): 1 damaged, 1 odd\n", ran.err)
    [damaged, odd] = json.loads(ToldHere("verify", files, "--json").out)
    assert (damaged["kind"], damaged["is_damage"], odd["kind"], odd["is_damage"]) == ("empty", True, "foreign", False)
    assert "resume" in damaged["advice"]


@pytest.mark.parametrize("columns", [80, 140])
def test_on_a_terminal_findings_are_folded_and_the_bar_is_gone_at_the_end(files: Path, columns: int) -> None:
    record = files / TWO
    record.write_bytes(b"")
    shown = on_a_terminal(["verify", str(files)], columns)
    assert "\x1b[1;31mempty\x1b[0m  one/" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert all(len(line) <= columns for line in plain.replace("\r", "\n").splitlines())
    shown = on_a_terminal(["copy", str(files), f"sqlite:///{files}.db", "--goal", "a%2fb"], columns)
    assert "records copied" in shown


def test_ctrl_c_ends_a_copy_in_one_line_and_it_goes_on_where_it_was(tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/large.db"
    with open_store(source) as store:
        fill(store, 25)
        with ThreadPoolExecutor(32) as threads:  # so many that the copy is not at its end before it is stopped
            for number in range(4000):
                key = CheckpointKey("many", 0, f"a-{number % 100}")
                threads.submit(store.backend.save, key, number, encode(key, number, b"1", writer="w"))
        everything = records(store.backend)
    target = tmp_path / "files"
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "durable_store.cli", "copy", source, str(target)]
    with subprocess.Popen(command, stdout=child, stderr=child) as copying:
        os.close(child)
        while not target.exists():
            time.sleep(0.001)
        copying.send_signal(signal.SIGINT)
        said = b"".join(chunks(parent)).decode()
    assert copying.returncode == 130, said
    assert said.endswith("durable-store: stopped\r\n")
    assert "Traceback" not in said
    with open_store(target) as store:
        there = records(store.backend)
    assert 0 < len(there) < len(everything)
    assert there.items() <= everything.items()
    match = COPIED.fullmatch(ToldHere("copy", source, target).out)
    assert match
    assert match.groups() == (f"{len(everything) - len(there):,}", str(len(there)))
