"""The README tells the truth: its example runs as it stands, and its promises are those of the docstrings."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from durable_store import Run, Store

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLE, AGENT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_example(directory: Path, code: str = EXAMPLE) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_the_example_has_about_fifteen_lines_and_runs_as_it_stands(tmp_path: Path) -> None:
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 15
    assert run_example(tmp_path) == "{'thoughts': 10}\n"
    assert (tmp_path / "runs.db").exists()
    assert run_example(tmp_path) == "{'thoughts': 10}\n", "the next episode"


def test_the_agent_runs_as_it_stands(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_example(tmp_path, AGENT) == "{'thoughts': 10}\n"


def test_the_promises_are_in_the_words_of_the_docstrings() -> None:
    section = README.split("## What is promised")[1].split("## Backends")[0]
    promises = re.findall(r"^\* `(\w+)`: (.*?)(?=^\* |\Z|^\n)", section, re.DOTALL | re.MULTILINE)
    assert len(promises) >= 5
    for verb, text in promises:
        owner = Run if hasattr(Run, verb) else Store
        promised = Store.resume if verb == "keep" else getattr(owner, verb)
        words = plain(f"{inspect.getdoc(promised)} {inspect.getdoc(owner)}")
        for sentence in re.split(r"(?<=\.) ", plain(text)):
            assert sentence in words, f"{verb}: {sentence}"


def plain(text: str) -> str:
    """Without layout: one line, no backquotes."""
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize("line", re.findall(r"^(durable-store .*)$", README, re.MULTILINE))
def test_the_commands_are_those_of_the_command_line(line: str, tmp_path: Path) -> None:
    run_example(tmp_path)
    command = shlex.split(line)[1:]
    if command[0] == "demo":
        command = ["demo", "--help"]
    elif command[0] == "conformance":
        command += ["--only", "DS-SAVE-01"]
    done = subprocess.run(
        [sys.executable, "-m", "durable_store.cli", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
