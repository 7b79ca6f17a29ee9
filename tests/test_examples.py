"""The examples run as they stand, and wherever they are killed, they end as if they had not been.

And docs/GUIDE.md tells the truth: its code runs, its promises are those of the docstrings, and what it names is there.
"""

import inspect
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from durable_store import aio, open_store, runtime

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
GUIDE = (ROOT / "docs" / "GUIDE.md").read_text()
BLOCKS: list[str] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)

RESULTS = {
    "plain_loop": "result: {'number': 618, 'guesses': 10}",
    "chat_agent": "result after 7 turns and 709 input tokens: I have noted 3 facts.",
    "swarm": "result: attempt 2 at [36.7, 61.9], for 1.44 dollars",
}
FACTS = ["call-0 water boils at 100 degrees", "call-1 at 95 in Bogota", "call-2 at 71 on Mount Everest"]


def begun(name: str, directory: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """An example that has been started as it stands."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=directory,
        env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]", *statuses: int) -> tuple[list[str], str]:
    """What it has said since it was last read from, and complained."""
    assert process.stdout
    assert process.stderr
    too_late = threading.Timer(60, process.kill)
    too_late.start()
    with process:  # not communicate(): it would miss what was read ahead with the last line
        said, complained = process.stdout.read(), process.stderr.read()
    too_late.cancel()
    assert process.returncode in (statuses or (0,)), complained
    return said.splitlines(), complained


def says(name: str, directory: Path, *arguments: str, **environment: str) -> list[str]:
    """What it says until it ends well."""
    said, complained = ended(begun(name, directory, *arguments, **environment))
    assert complained == ""
    return said


def until(process: "subprocess.Popen[str]", beginning: str) -> str:
    """Waits for a line that begins like this, and returns it."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(beginning):
            return line.rstrip("\n")
    raise AssertionError(f"it never said {beginning!r}")


@pytest.fixture(params=[1, 2])
def lives(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], list[list[str]]]:
    """What an example says in each of its lives: a few that end by SIGKILL at any moment, and the one that does not."""

    def run(name: str) -> list[list[str]]:
        chance, said = random.Random(f"{name} {request.param}"), list[list[str]]()
        for _ in range(5):
            process = begun(name, tmp_path)
            assert process.stdout
            lines = [process.stdout.readline().rstrip("\n") for _ in range(chance.choice([0, 1, 1, 2, 3]))]
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
            rest, complained = ended(process, -signal.SIGKILL, 0)  # 0: it was quicker
            assert complained == ""
            said.append([*lines, *rest])
        return [*said, says(name, tmp_path)]

    return run


@pytest.mark.parametrize("name", [*RESULTS, "stand_in"])
def test_an_example_has_less_than_80_lines_and_tells_how_to_try_it(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 80
    told = text.split('"""')[1]
    assert f"python examples/{name}.py" in told
    if name in RESULTS:
        assert "Ctrl-C" in told
        assert "kill -9" in told
        assert f"`{name}.db`" in told


def test_these_are_all_examples() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*RESULTS, "stand_in"}


@pytest.mark.parametrize("name", RESULTS)
def test_an_example_runs_as_it_stands_in_an_empty_directory(name: str, tmp_path: Path) -> None:
    said = says(name, tmp_path)
    assert said[-1] == RESULTS[name]
    assert (tmp_path / f"{name}.db").exists()


@pytest.mark.parametrize("name", RESULTS)
def test_interrupted_it_says_how_to_go_on_and_goes_on(name: str, tmp_path: Path) -> None:
    """By Ctrl-C: in one line, without a traceback."""
    process = begun(name, tmp_path)
    until(process, "turn 1" if name != "swarm" else "  attempt 0")
    process.send_signal(signal.SIGINT)
    _, complained = ended(process, 1)
    assert "the same command goes on" in complained
    assert len(complained.splitlines()) == 1
    said = says(name, tmp_path)
    assert said[-1] == RESULTS[name]
    assert not any(line.startswith("turn 0") for line in said)


# plain_loop


def test_the_plain_loop_loses_no_turn_and_repeats_none(lives: Callable[[str], list[list[str]]]) -> None:
    said = lives("plain_loop")
    assert said[-1][-1] == RESULTS["plain_loop"]
    committed = [-1]
    for life in said:
        turns = [int(number) for line in life for number in re.findall(r"^turn (\d+) is committed", line)]
        if life and life[0].endswith(": begins"):
            assert committed[-1] == -1 or committed[-1] >= 8, "from the start only if there was nothing, or all"
            committed = [-1]
        if turns:  # it may have been killed between a commit and its line
            assert turns[0] in (committed[-1] + 1, committed[-1] + 2)
            assert turns == list(range(turns[0], turns[-1] + 1))
            committed += turns
    assert committed[-1] >= 8


def test_of_two_plain_loops_one_is_refused_at_its_commit_and_the_other_ends_well(tmp_path: Path) -> None:
    first = begun("plain_loop", tmp_path)
    until(first, "turn 0")
    both = [first, begun("plain_loop", tmp_path)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    for process, (said, complained) in zip(both, outputs, strict=True):
        if process.returncode:
            assert complained.startswith("stopped: ")
            assert "superseded" in complained
        else:
            assert said.splitlines()[-1] == RESULTS["plain_loop"]


# chat_agent


def notes(directory: Path) -> list[str]:
    return (directory / "notes.txt").read_text().splitlines()


def test_the_chat_agent_writes_each_note_once(lives: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    assert lives("chat_agent")[-1][-1] == RESULTS["chat_agent"]
    with open_store(f"sqlite:///{tmp_path}/chat_agent.db") as store:
        episodes = [episode.id for episode in reversed(store.episodes("facts"))]
    assert notes(tmp_path) == [f"{episode}/{fact}" for episode in episodes for fact in FACTS]


def test_killed_within_its_tool_the_chat_agent_looks_what_is_done(tmp_path: Path) -> None:
    for done in ("not done", "done"):
        (tmp_path / done).mkdir()
        process = begun("chat_agent", tmp_path / done)
        until(process, "turn 1")
        while done == "done" and not (tmp_path / done / "notes.txt").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        process.kill()
        ended(process, -signal.SIGKILL)
        said = says("chat_agent", tmp_path / done)
        assert f"  a process was killed within 'note', which was {done}" in said
        assert said[-1] == RESULTS["chat_agent"]
        assert notes(tmp_path / done) == [f"0/{fact}" for fact in FACTS]


def test_a_tool_call_that_the_chat_agent_cannot_do_is_answered_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    example = runpy.run_path(str(EXAMPLES / "chat_agent.py"))
    for asked in ("{", "[]", '{"txt": 1}', "null"):
        assert example["note"](0, {"id": "call-0", "function": {"arguments": asked}}).startswith("not noted: ")
    assert notes(tmp_path) == []


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[str]:
    """The base URL that the stand-in says it serves."""
    process = begun("stand_in", tmp_path)
    yield until(process, "OPENAI_BASE_URL=").removeprefix("OPENAI_BASE_URL=")
    process.send_signal(signal.SIGINT)
    ended(process)


def test_the_chat_agent_asks_the_server_that_the_environment_names(stand_in: str, tmp_path: Path) -> None:
    assert says("chat_agent", tmp_path, OPENAI_BASE_URL=stand_in)[-1] == RESULTS["chat_agent"]


def test_where_no_server_is_it_stops_in_one_line_and_goes_on_when_there_is_one(stand_in: str, tmp_path: Path) -> None:
    _, complained = ended(begun("chat_agent", tmp_path, OPENAI_BASE_URL="http://127.0.0.1:1/v1"), 1)
    assert "Connection refused" in complained
    assert len(complained.splitlines()) == 1
    assert says("chat_agent", tmp_path, OPENAI_BASE_URL=stand_in)[-1] == RESULTS["chat_agent"]
    with open_store(f"sqlite:///{tmp_path}/chat_agent.db") as store:
        assert [episode.status for episode in store.episodes("facts")] == ["finished"]


def test_another_model_in_between_is_warned_of(tmp_path: Path) -> None:
    process = begun("chat_agent", tmp_path)
    until(process, "turn 1")
    process.kill()
    ended(process, -signal.SIGKILL)
    said, complained = ended(begun("chat_agent", tmp_path, OPENAI_MODEL="another"))
    assert said[-1].endswith(": I have noted 3 facts.")
    assert "model was 'stand-in' and is 'another'" in complained


def test_the_stand_in_refuses_what_such_an_api_refuses(stand_in: str) -> None:
    call = {"id": "call-0", "type": "function", "function": {"name": "note", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    for path, messages, status in (("/embeddings", [], 404), ("/chat/completions", [asked], 400)):
        body = json.dumps({"model": "stand-in", "messages": messages}).encode()
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{stand_in}{path}", body))  # noqa: S310 - our own server
        with refused.value:
            assert refused.value.code == status


# swarm


def test_no_climber_of_the_swarm_takes_a_committed_stride_again(
    lives: Callable[[str], list[list[str]]], tmp_path: Path
) -> None:
    said = lives("swarm")
    assert said[-1][-1] == RESULTS["swarm"]
    strides = [line for life in said for line in life if "stride" in line]
    whole = 3 * 2 * 4 * 3  # attempts, rounds, climbers, strides
    assert whole <= len(strides) <= whole + 4 * (len(said) - 1), "a kill costs each climber at most one stride"
    assert says("swarm", tmp_path) == said[-1][-4:], "it is done"


def test_with_a_budget_that_is_too_small_the_swarm_stops_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    said, complained = ended(begun("swarm", tmp_path, "0.59"), 1)
    assert "BudgetExceeded" in complained
    assert re.search(r"dollars 0\.6\d? of 0\.59", complained)
    assert sum("stride" in line for line in said) >= 30
    _, complained = ended(begun("swarm", tmp_path, "0.59"), 1)
    assert "BudgetExceeded" in complained
    assert says("swarm", tmp_path)[-1] == RESULTS["swarm"]


# docs/GUIDE.md


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_of_the_guide_runs_as_it_stands(number: int, tmp_path: Path) -> None:
    """And says what its last comment says."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = re.findall(r"^ *print\(.*\)  # (.*)$", BLOCKS[number], re.MULTILINE)
    assert told
    assert done.stdout.splitlines() == told


def test_the_guides_promises_are_in_the_words_of_the_docstrings() -> None:
    promises = re.findall(r"^\* `([\w.]+)`: (.*?)(?=^\* |\Z|^\n)", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(promises) >= 12
    for name, text in promises:
        first, _, rest = name.partition(".")
        owner: Any = (
            getattr(runtime, first, None) or getattr(aio, first, None) or getattr(open_store("memory://"), first)
        )
        promised = getattr(owner, rest) if rest else owner
        words = plain(f"{inspect.getdoc(promised)} {inspect.getdoc(owner)} {aio.__doc__}")
        for sentence in re.split(r"(?<=\.) ", plain(text)):
            assert sentence.rstrip(".") in words, f"{name}: {sentence}"


def plain(text: str) -> str:
    """Without layout: one line, no backquotes."""
    return " ".join(text.replace("`", "").split())


def test_all_that_the_runtime_exports_is_in_the_guide_and_has_its_promises() -> None:
    for name in runtime.__all__:
        assert f"`{name}" in GUIDE or re.search(rf"\b{name}\b", "".join(BLOCKS)), name
        public: Any = getattr(runtime, name)
        members = [getattr(public, member) for member in dir(public) if not member.startswith("_")]
        told = [each for each in members if inspect.isroutine(each) or isinstance(each, property)]
        assert all(inspect.getdoc(each) for each in [public, *told]), name


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", GUIDE))))
def test_what_the_guide_links_to_is_there(link: str) -> None:
    assert (ROOT / "docs" / link).exists()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(#([^)]+)\)", GUIDE))))
def test_the_sections_that_the_guide_links_to_are_there(link: str) -> None:
    headings = re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
    assert link in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_commands_of_the_guide_are_those_of_the_examples() -> None:
    named = set(re.findall(r"python examples/(\w+)\.py", GUIDE))
    assert named == {*RESULTS, "stand_in"}
